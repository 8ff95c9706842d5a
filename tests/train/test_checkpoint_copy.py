"""A checkpoint that was copied elsewhere is one: a trainer goes on from it, to the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hpctrain.cli.main import invoke
from tests.train.ranks import WarmRanks, final_weights, logs, make_recipe, metric_lines

pytestmark = pytest.mark.slow


def test_trainer_resumes_from_a_copy(trainers: WarmRanks, tmp_path: Path) -> None:
    """Four FSDP2 ranks continue in a new run directory from a copied checkpoint; the final weights are byte-equal."""
    recipe = make_recipe(
        training__steps=8, checkpoint__every_steps=4, checkpoint__keep_last=5, training__parallelism={"kind": "fsdp2"},
    )
    first, second = tmp_path / "first", tmp_path / "second"
    assert [0] * 4 == trainers.finish(first, recipe), logs(first)
    second.mkdir(mode=0o700)
    assert 0 == invoke(["checkpoints", "copy", f"{first}/", "4", str(second / "checkpoints")])
    shutil.copytree(first / "cache", second / "cache")  # the tokens, to save their making
    assert [0] * 4 == trainers.finish(second, recipe), logs(second)

    assert [5, 6, 7, 8] == [line["step"] for line in metric_lines(second)]
    assert final_weights(first) == final_weights(second) != b""
