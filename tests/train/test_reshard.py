"""What was saved in one layout is restored in any other, on any number of ranks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.checkpoint.manifest import Manifest
from tests.train.ranks import WarmRanks, logs, make_recipe
from tests.train.targets import LAYOUTS

TARGETS = "tests.train.targets"

STOCK_LOAD = """
import sys, torch, torch.distributed.checkpoint as dcp
torch.manual_seed(1)
shapes = {"even": (8, 12), "uneven": (7, 6), "fewer rows than ranks": (3, 5), "long": (50,), "empty": (0, 4)}
expected = {name: torch.randn(shape) for name, shape in shapes.items()}
for folder in sys.argv[1:]:
    found = {f"state.{name}": torch.zeros_like(value) for name, value in expected.items()}
    dcp.load(found, checkpoint_id=folder, no_dist=True)
    assert all(torch.equal(found[f"state.{name}"], value) for name, value in expected.items()), folder
assert not any(name.startswith("hpctrain") for name in sys.modules)
"""


@pytest.mark.slow
def test_any_layout_restores_any_other(trainers: WarmRanks, tmp_path: Path) -> None:
    """Five layouts saved on 4 ranks come back exactly in all five, on 4 ranks and on 2; each byte is read once."""
    run = tmp_path / "run"
    assert [0] * 4 == trainers.finish(run, make_recipe(), target=f"{TARGETS}:save_every_layout"), logs(run)
    for ranks in (4, 2):
        codes = trainers.finish(run, make_recipe(), ranks, target=f"{TARGETS}:restore_every_layout_as_every_other")
        assert [0] * ranks == codes, logs(run)


@pytest.mark.slow
def test_bytes_are_written_once_and_read_by_stock_torch(trainers: WarmRanks, tmp_path: Path) -> None:
    """However tensors lie on 4 ranks, each byte is stored once, no rank writes most, and stock dcp.load reads it."""
    run = tmp_path / "run"
    assert [0] * 4 == trainers.finish(run, make_recipe(), target=f"{TARGETS}:save_every_layout"), logs(run)
    folders = [run / layout / "step-00000001.i000" for layout in LAYOUTS]
    total = 4 * (8 * 12 + 7 * 6 + 3 * 5 + 50 + 1) + 2 * 9 * 4

    for folder in folders:
        shards = Manifest.from_bytes((folder / "manifest.json").read_bytes()).shards
        by_file = {f"__{rank}_0.distcp": 0 for rank in range(4)}
        for item in shards:
            by_file[item.file] += item.size_bytes
        assert total == sum(by_file.values()), folder
        assert max(by_file.values()) < total / 2, (folder, by_file)
    arguments = [sys.executable, "-W", "ignore", "-c", STOCK_LOAD, *map(str, folders)]
    result = process.run(arguments, timeout_s=120, cwd=tmp_path)
    assert result.ok, result.stderr
