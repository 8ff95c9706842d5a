"""Every benchmark runs in its short form, so that its full form still works on the day it is needed."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.recipe.catalogue import catalogue as recipes
from hpctrain.recipe.tables import tables
from tests.source_tree import ROOT

pytestmark = pytest.mark.slow
ROW = re.compile(r"^\| (.+?) \| (\d+) \| ([\d.]+) ms \| ([\d.]+) to ([\d.]+) ms \| ([\d.]+) \|$", re.MULTILINE)


def printed_by(script: str, tmp_path: Path, *words: str, timeout_s: float, **env: str) -> str:
    """What a benchmark prints; it must not fail."""
    argv = [sys.executable, str(ROOT / "benchmarks" / script), *words]
    result = process.run(argv, timeout_s=timeout_s, env={**os.environ, **env}, cwd=str(tmp_path))
    assert result.ok, result.stdout + result.stderr
    return result.stdout


def rows_of(script: str, tmp_path: Path) -> dict[str, float]:
    """Ratio by case, from the printed table; every number must be consistent."""
    env = {"HPCTRAIN_STATE_DIR": str(tmp_path / "state"), "HPCTRAIN_RUNS_DIR": str(tmp_path / "runs")}
    printed = printed_by(script, tmp_path, "--short", timeout_s=250, **env)
    ratios = {}
    for name, runs, median, low, high, ratio in ROW.findall(printed):
        assert int(runs) >= 2
        assert 0 < float(low) <= float(median) <= float(high)
        ratios[name] = float(ratio)
    return ratios


def test_startup(tmp_path: Path) -> None:
    """Start-up is measured against a bare import of click, help included."""
    ratios = rows_of("startup.py", tmp_path)

    assert 1.0 == ratios['python -c "import click"']
    assert ratios["hpctrain --help"] < ratios["hpctrain submit quickstart --dry-run"]


@pytest.mark.cluster
def test_submit(tmp_path: Path) -> None:
    """Submission is measured against raw sbatch on a cluster of its own, which is gone afterwards."""
    ratios = rows_of("submit.py", tmp_path)

    assert 1.0 == ratios["sbatch SCRIPT"]
    assert {"hpctrain submit", "hpctrain.submit() from Python"} <= set(ratios)


@pytest.mark.cluster
def test_slurm_adapters(tmp_path: Path) -> None:
    """The ways to Slurm are measured on a cluster of their own; without pyslurm its rows are left out, aloud."""
    ratios = rows_of("slurm_adapters.py", tmp_path)

    assert 1.0 == ratios["hpctrain, Slurm's commands as text"]
    assert {"squeue --json, parsed", "sbatch, as hpctrain submits"} <= set(ratios)


def test_health(tmp_path: Path) -> None:
    """A prolog is measured against NVML alone and against one process per check, which takes longer than all in one."""
    ratios = rows_of("health.py", tmp_path)
    by_case = {name.partition(" (")[0]: ratio for name, ratio in ratios.items()}

    assert 1.0 == by_case['python -c "import pynvml; pynvml.nvmlInit()"']
    assert 1.0 < by_case["hpctrain, prolog.sh"] < by_case["hpctrain's checks, one process per check"]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_methods(tmp_path: Path) -> None:
    """A few of the methods' examples run one after the other, each from the model of the one before, and are measured."""
    words = ("--short", "--only", "base,sft,dpo,rlvr")
    printed = printed_by("methods.py", tmp_path, *words, timeout_s=850, TMPDIR=str(tmp_path))

    names = [line.split(" | ")[0] for line in printed.splitlines() if line.startswith("| ")]
    assert ["| recipe", "| ---", "| base", "| sft", "| dpo", "| rlvr"] == list(dict.fromkeys(names))


def catalogue(tmp_path: Path, *words: str) -> str:
    """What benchmarks/catalogue.py prints; no run of it may fail."""
    pytest.importorskip("trl")
    pytest.importorskip("peft")
    return printed_by("catalogue.py", tmp_path, "--jobs", "2", *words, timeout_s=550, TMPDIR=str(tmp_path))


@pytest.mark.timeout(600)
def test_a_sample_of_the_catalogue(tmp_path: Path) -> None:
    """An architecture of each family and each method of the recipes: killed and resumed, all end with the same bytes."""
    results = tmp_path / "results.jsonl"
    printed = catalogue(tmp_path, "--sample", "--results", str(results))

    assert "8 runs killed and resumed, 8 with the same bytes, 0 failed;" in printed
    cells = [json.loads(line) for line in results.read_text().splitlines()]
    families = {str(model.config["model_type"]): model.family for model in reversed(tables().models.values())}
    assert {model.family for model in tables().models.values()} <= {families[cell["kind"]] for cell in cells}
    assert set(tables().methods) == {cell["method"].partition(",")[0] for cell in cells}
    before = results.read_text()
    assert printed.partition("| method")[2].partition("; ")[0] in catalogue(
        tmp_path, "--sample", "--results", str(results))
    assert before == results.read_text()  # nothing was left to do
    assert [results] == list(tmp_path.iterdir())


def test_the_catalogues_benchmark_has_every_method_with_every_adapter() -> None:
    """What recipes are generated for is a row of the table; four bits need a GPU."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        toys = importlib.import_module("catalogue_toys")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    wanted = {(entry.method, entry.adapter) for entry in recipes() if entry.generated and entry.adapter != "qlora"}
    sections = toys.methods({}, ROOT, ROOT, ROOT).values()

    assert wanted <= {(one["method"], one.get("adapter", {}).get("kind", "")) for one in sections}
    assert {str(model.config["model_type"]) for model in tables().models.values()} == set(toys.kinds())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_catalogue(tmp_path: Path) -> None:
    """Each architecture of the catalogue, and each method with each adapter, trains through a kill; none fails."""
    printed = catalogue(tmp_path, "--short")

    assert " 0 failed" in printed
    assert all(f"| `{model.config['model_type']}` |" in printed for model in tables().models.values())


def block(system: str, stall_s: float, durable_s: float, restores: dict[str, float]) -> dict[str, Any]:
    """What a worker measured, the same three times."""
    save = {"stall_s": stall_s, "complete_s": durable_s, "durable_s": durable_s, "levels_s": {}, "steps_s": [0.03],
            "written_bytes": 2**30}
    return {"system": system, "gib": 1.0, "flushes": True, "baseline_s": [0.02], "first": save, "saves": 3 * [save],
            "restores": 3 * [restores], "memory_bytes": {"save": 2**30, "restore": 0}}


def test_checkpoint_verdicts() -> None:
    """Aims are judged by ratios of medians, and each verdict says by how much it was met or missed."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        summary = importlib.import_module("checkpoint_systems.summary")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    rates = {"copy, 1 thread": [0.10], "copy, torch's threads": [0.06], "write and flush": [1.0]}
    results = summary.Results([
        {"system": "rates", "gib": 1.0, "rates": rates},
        block("hpctrain", 0.1, 1.2, {"ram, hot": 0.1}),
        block("DCP save", 1.0, 1.0, {"shared, hot": 0.4, "shared, cold": 0.6}),
        block("DCP async_save, thread", 0.4, 2.0, {}),
    ])

    assert [
        "**missed**: the stall is at 60% of the copy rate (aim: at least 80%)",
        "**met**: the stall is 0.25 times that of DCP async_save, thread (aim: at most 0.33)",
        "**missed**: a restore from memory is 4.0 times as fast as DCP's load of hot files (aim: at least 5)",
        "**met**: a restore from memory is 6.0 times as fast as DCP's load of cold files (aim: at least 5)",
        "**missed**: the durable write takes 1.20 times as long as DCP save (aim: at most 1)",
    ] == summary.aims(results, 1.0)
    assert "| hpctrain | 3 | 100 ms (100 ms to 100 ms) | 100 ms (100 ms to 100 ms) | 1.50 |" in summary.markdown(results, {})


def test_checkpoint(tmp_path: Path) -> None:
    """Every system of this environment saves and restores one state bit for bit, with steady numbers of every column."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    systems = ["hpctrain", "hpctrain, all tiers", "torch.save", "safetensors", "DCP save", "DCP async_save, thread"]
    numbers = tmp_path / "numbers.json"
    words = ("--short", "--blocks", "1", "--json", str(numbers), "--systems", *systems)

    printed = printed_by("checkpoint.py", tmp_path, *words, timeout_s=250)

    run = json.loads(numbers.read_text())
    assert {} == run["missing"]
    assert {"rates", *systems} == {block["system"] for block in run["blocks"]}
    assert all(one["stall_s"] > 0 < one["durable_s"] for block in run["blocks"] for one in block.get("saves", []))
    for block in run["blocks"]:
        if block["system"] in systems:
            assert (2, 2) == (len(block["saves"]), len(block["restores"]))
    tiers = next(one for one in run["blocks"] if one["system"] == "hpctrain, all tiers")
    assert all({"ram", "peer", "local"} == set(save["levels_s"]) for save in tiers["saves"])
    assert {"ram, hot", "peer, hot", "local, cold", "local, hot", "shared, cold", "shared, hot"} == set(tiers["restores"][0])
    for name in systems:
        assert 2 == len(re.findall(rf"^\| {re.escape(name)} \| .*\d ms", printed, re.MULTILINE))


def test_checkpoint_campaign(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fifty starts of four ranks, keepers and writers are killed at random; nothing that was there is lost or corrupt."""
    pytest.importorskip("torch")
    # torch makes a kernel cache on first use; it gets a place of its own, so that what is left in tmp_path is ours.
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("kernels"))}
    printed = printed_by("checkpoint_campaign.py", tmp_path, "--short", timeout_s=250, TMPDIR=str(tmp_path), **cache)
    counts = {name: int(count) for name, count in re.findall(r"^\| (.+?) \| (\d+) \|$", printed, re.MULTILINE)}

    assert 50 == counts["starts of 4 ranks ended by SIGKILL"]
    assert (0, 0) == (counts["checkpoints lost"], counts["corrupt restores"])
    assert counts["saves reported: ram"]
    assert counts["saves reported: shared"]
    assert counts["starts that restored one"]
    assert sum(count for name, count in counts.items() if name.startswith("restored from") and "ram" in name)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.timeout(1300)
def test_recovery(tmp_path: Path) -> None:
    """A killed rank of a torchrun job costs a whole start, whose phases add up to the time until the next step."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    numbers = tmp_path / "numbers.json"
    words = ("--short", "--systems", "torchrun", "--json", str(numbers), "--patience", "600")

    printed = printed_by("recovery.py", tmp_path, *words, timeout_s=1250)

    run = json.loads(numbers.read_text())
    assert [] == run["problems"]
    for one in run["systems"]["torchrun"]:
        assert one["total_s"] == pytest.approx(sum(one["phases_s"].values()))
        assert all(value > 0 for value in one["phases_s"].values())
    assert re.search(r"^\| torchrun \| 1 \| [\d.]+ s \|", printed, re.MULTILINE)


def test_recovery_times_are_read_from_timelines() -> None:
    """The first step begun after a fault counts, and none that was under way; replicas go on with fewer, then with all."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        timeline = importlib.import_module("recovery_systems.timeline")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))

    def moments(*lines: tuple[float, int, str, int, int]) -> list[Any]:
        return [timeline.Moment(time, rank, 1, what, step, ranks) for time, rank, what, step, ranks in lines]

    before = moments((1.0, 0, "step", 6, 2), (1.0, 1, "step", 6, 2), (2.1, 0, "step", 7, 2))
    restarted = moments((4.0, 0, "start", 0, 0), (5.0, 0, "import", 0, 0), (6.0, 0, "join", 0, 0), (7.0, 0, "load", 5, 0))
    assert timeline.recovery([*before, *restarted], 2.0, 2) is None
    found = timeline.recovery([*before, *restarted, *moments((7.5, 0, "step", 6, 2), (8.0, 0, "step", 7, 2))], 2.0, 2)
    assert (5.5, 5.5, 1) == (found.total_s, found.whole_s, found.redone_steps)
    assert [2.0, 1.0, 1.0, 1.0, 0.5] == list(found.phases_s.values())

    alone = moments((5.0, 0, "step", 7, 1), (6.0, 0, "step", 8, 1))
    assert timeline.recovery_by_replicas([*before, *alone], 2.0, 2) is None
    found = timeline.recovery_by_replicas([*before, *alone, *moments((9.0, 1, "step", 9, 2))], 2.0, 2)
    assert (3.0, 7.0) == (found.total_s, found.whole_s)


@pytest.mark.cluster
def test_watchdog(tmp_path: Path) -> None:
    """A watchdog costs little, lists the jobs once per poll, and has a job without a coordinator queued again, once."""
    words, state = ("--short", "--minutes", "0.7"), str(tmp_path / "state")
    printed = printed_by("watchdog.py", tmp_path, *words, timeout_s=250, HPCTRAIN_STATE_DIR=state)
    rows = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", printed, re.MULTILINE))

    assert float(rows["CPU, squeue included"].split()[0]) < 50
    listings = "listings of jobs that slurmctld answered, without this benchmark's own"
    assert abs(int(rows[listings]) - int(rows["polls"])) <= 2
    assert rows["coordinators silenced"] == rows["found and queued again"] == rows["requeues that slurmctld did"] == "1"
