"""A flipped bit is found wherever it is, and a right result is never called wrong."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hpctrain import process
from hpctrain.health.deep import disk, gemm, memory
from hpctrain.health.deep.baseline import Band
from hpctrain.health.deep.bench import Bench, first_difference, flip_bit
from hpctrain.health.deep.files import DeepFiles
from hpctrain.health.deep.measurement import CHECKS, Status
from hpctrain.health.deep.plan import DeepJob, DeepPlan
from hpctrain.health.deep.simulated import VARIABLE, Pretended, pretended
from hpctrain.health.deep.sizes import MIB, PROFILES

TINY = replace(
    PROFILES["smoke"], matrix_cpu=64, burn_s=0.0, repeats=3, copy_bytes=MIB, pattern_bytes=MIB, message_bytes=4096, cpu_s=0.0
)


def bench(tmp_path: Path, *corrupt: str) -> Bench:
    """A small bench on the processor."""
    place = str(tmp_path)
    return Bench(torch.device("cpu"), 0, 2, TINY, Pretended(1.0, frozenset(corrupt)), place, place)


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("byte", [0, 1, 2, 3, 4 * 2080, 4 * 4095 + 3])
def test_freivalds_finds_every_single_flipped_bit(byte: int, bit: int) -> None:
    """Lowest bit of a mantissa, sign, exponent: one wrong value has no other to hide behind."""
    first, second = gemm.inputs(64, torch.device("cpu"))
    product = first @ second
    assert "" == gemm.freivalds(first, second, product)

    flip_bit(product, byte, bit)

    # A zero whose sign flips is still zero: the only flip that changes no value.
    same = torch.equal(product, first @ second)
    assert same or "1 of 64 rows" in gemm.freivalds(first, second, product)
    assert not same or (byte % 4, bit) == (3, 7)


def test_freivalds_finds_a_result_that_is_wrong_every_time() -> None:
    """Repeating it would not show it: the inputs of one row are swapped."""
    first, second = gemm.inputs(64, torch.device("cpu"))
    swapped = first.clone()
    swapped[[3, 4]] = swapped[[4, 3]]

    assert "2 of 64 rows, the first is 3" in gemm.freivalds(first, second, swapped @ second)


def test_inputs_are_exact_at_the_largest_size() -> None:
    """Sums of products stay below 2**24 in every profile, so that float32 holds them in any order of adding."""
    largest = max(max(sizes.matrix_cpu, sizes.matrix_gpu) for sizes in PROFILES.values())

    assert gemm.LARGEST**2 * largest < 2**24


@pytest.mark.parametrize("size", [64, 300, 1024])
def test_small_sums_are_exact_in_bfloat16(size: int) -> None:
    """The product in bfloat16 is the exact one, and the largest sum that a row can have fits into the format."""
    first, second = gemm.thin_inputs(size, torch.device("cpu"))
    product = torch.mm(first, second)

    assert torch.equal(product.to(torch.float64), first.to(torch.float64) @ second.to(torch.float64))
    assert min(size, 256) == first.abs().sum(dim=1, dtype=torch.float64).max()
    assert "" == gemm.freivalds(first, second, product)


def test_a_wrong_unit_for_bfloat16_alone_is_found(tmp_path: Path) -> None:
    """float32 is right and keeps its value."""
    found = gemm.run(bench(tmp_path, "gemm.bfloat16"))

    assert [Status.MEASURED.value, Status.CORRUPT.value] == [one["status"] for one in found]
    assert "1 of 64 rows" in found[1]["detail"]


def test_a_burn_finds_a_product_that_differs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third repetition is spoiled: other bits than the first time."""
    calls, real = [], torch.mm

    def sometimes_wrong(first: torch.Tensor, second: torch.Tensor, **arguments: torch.Tensor) -> torch.Tensor:
        result = real(first, second, **arguments)
        calls.append(result)
        if len(calls) == 4:  # the first is the reference
            flip_bit(result)
        return result

    monkeypatch.setattr(torch, "mm", sometimes_wrong)
    found = gemm.run(bench(tmp_path))

    assert [Status.CORRUPT.value, Status.MEASURED.value] == [one["status"] for one in found]
    assert "repetition 3 gives other bits than the first: 1 of 4096 values differ" in found[0]["detail"]


def test_right_results_are_called_right(tmp_path: Path) -> None:
    """All of a processor's measurements have a value, in both number formats."""
    found = [*gemm.run(bench(tmp_path)), *memory.run_copy(bench(tmp_path)), *memory.run_pattern(bench(tmp_path)),
             *disk.run_local(bench(tmp_path)), *disk.run_shared(bench(tmp_path))]

    assert {Status.MEASURED.value} == {one["status"] for one in found}
    assert all(one["value"] > 0 for one in found)
    assert [] == list(tmp_path.iterdir())


def test_a_flipped_bit_in_memory_and_on_disk_is_found(tmp_path: Path) -> None:
    """And told with its place."""
    assert "1 of 131072 values differ" in memory.run_pattern(bench(tmp_path, "pattern"))[0]["detail"]
    for one in disk.run_local(bench(tmp_path, "disk")):
        assert (Status.CORRUPT.value, True) == (one["status"], "chunk 1 of 1" in one["detail"])


def test_what_needs_a_gpu_is_skipped_and_says_so(tmp_path: Path) -> None:
    """No value, and no failure."""
    for one in (*memory.run_pcie(bench(tmp_path)), *memory.run_host(bench(tmp_path))):
        assert (Status.SKIPPED.value, True) == (one["status"], "no GPU" in one["detail"])


def test_nan_is_a_difference() -> None:
    """A comparison that lets NaN pass would call a burnt-out unit healthy."""
    found, right = torch.tensor([1.0, torch.nan]), torch.tensor([1.0, 2.0])

    assert "1 of 2 values differ, the first at 1" in first_difference(found, right)


def test_only_a_private_clusters_node_pretends(tmp_path: Path) -> None:
    """Without the variable nothing is read; with it a damaged file is no fault."""
    (tmp_path / "n1").mkdir()
    (tmp_path / "n1/deep.json").write_text('{"slow_factor": 3, "corrupt": ["gemm"]}')

    assert Pretended() == pretended("n1", {})
    assert Pretended(3.0, frozenset({"gemm"})) == pretended("n1", {VARIABLE: str(tmp_path)})
    assert Pretended() == pretended("n2", {VARIABLE: str(tmp_path)})
    (tmp_path / "n1/deep.json").write_text("{")
    assert Pretended() == pretended("n1", {VARIABLE: str(tmp_path)})


@pytest.mark.parametrize("corrupt", [(), ("cpu", "allreduce")])
def test_a_node_runs_all_checks_in_a_process_of_its_own(tmp_path: Path, corrupt: tuple[str, ...]) -> None:
    """As a job starts it: every check has its results on record, and the scratch directory is gone."""
    simulated, local = tmp_path / "nodes/n1", tmp_path / "local"
    simulated.mkdir(parents=True)
    local.mkdir()
    (simulated / "deep.json").write_text(json.dumps({"slow_factor": 1, "corrupt": corrupt}))
    files = DeepFiles(tmp_path / "run")
    files.directory.mkdir()
    plan = DeepPlan(tuple(CHECKS), False, "smoke", Band(), (DeepJob(("n1",)),), str(local), {}, one_host=True)
    files.create(plan)
    argv = [sys.executable, "-m", "hpctrain.health.deep", "node", "--run-dir", str(files.directory), "--job", "0"]
    env = {**os.environ, "SLURMD_NODENAME": "n1", VARIABLE: str(simulated.parent)}

    result = process.run(argv, timeout_s=120, env=env)

    assert result.ok, result.stderr
    records = files.told("n1")
    assert ("hardware", "end") == (records[0]["kind"], records[-1]["kind"])
    found = {one["metric"]: one["status"] for one in records[1:-1]}
    assert {metric for check in CHECKS.values() for metric in check.metrics} == set(found)
    wrong = {metric for metric, status in found.items() if status not in ("measured", "skipped")}
    assert ({"cpu.slowest_core", "cpu.all_cores", "allreduce.node"} if corrupt else set()) == wrong
    assert [] == list(local.iterdir())
