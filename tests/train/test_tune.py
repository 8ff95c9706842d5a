"""Methods that tune a model: killed at random they end with the bytes of a run that was not, and leave a whole model."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hpctrain.cli.main import invoke
from hpctrain.testing.run_builder import RunBuilder
from tests.train.ranks import WarmRanks, logs, metric_lines
from tests.train.tuning import SLOWLY, killed_after_every_step, killed_once, modules, tuning_recipe

pytest.importorskip("trl")
pytest.importorskip("peft")

MEASURED = ("loss", "grad_norm", "learning_rate", "validation_loss", "tokens", "rewards/margins")
"""Metrics that a killed run must share with a calm one."""

LORA = {"adapter": {"rank": 4, "dropout": 0.1}}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "sft packed": ("sft", {"chat": {"packing": True}, "training": {"global_batch_size": 4, "steps": 8}}),
    "sft lora": ("sft", LORA),
    "sft dora": ("sft", {"adapter": {"kind": "dora", "rank": 4}}),
    "sft fsdp2": ("sft", {"training": {"parallelism": {"kind": "fsdp2"}}}),
    "sft fsdp2 lora": ("sft", {**LORA, "training": {"parallelism": {"kind": "fsdp2"}}}),
    "sft bf16 recomputed": ("sft", {"training": {"precision": "bf16", "activation_checkpointing": True}}),
    "dpo": ("dpo", {}),
    "dpo lora": ("dpo", LORA),
    "dpo fsdp2": ("dpo", {"training": {"parallelism": {"kind": "fsdp2"}}}),
    "dpo ipo": ("dpo", {**LORA, "preference": {"loss": "ipo"}}),
    "reward": ("reward", {}),
    "reward lora": ("reward", LORA),
    "reward fsdp2": ("reward", {"training": {"parallelism": {"kind": "fsdp2"}}}),
}
"""What is killed: a method, and the sections of its recipe."""
USUAL = ("sft", "dpo lora", "reward")
"""Those that every run of the tests kills; --long kills all of them, after each step."""


def recipe_of(case: str, place: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The recipe of a case, and what its ranks import."""
    method, sections = CASES[case]
    return tuning_recipe(method, place, **sections), modules(method)


@pytest.mark.slow
@pytest.mark.parametrize("case", USUAL)
def test_killed_run_ends_byte_equal(trainers: WarmRanks, tmp_path: Path, case: str) -> None:
    """SIGKILL of all ranks in a step ends, after another start, with the weights and losses of a run that was not killed."""
    calm, stormy = killed_once(trainers, tmp_path, *recipe_of(case, tmp_path), after_step=7, names=MEASURED)
    assert_whole_model(calm, case)
    assert_exported(calm, case)
    assert_has_lineage(stormy)


def assert_has_lineage(run: Path) -> None:
    """The model has a card and a record: its data and base model by hash, and every start with its checkpoint."""
    record = json.loads((run / "model" / "hpctrain_lineage.json").read_bytes())
    inputs = {entry["role"]: entry for entry in record["inputs"]}
    assert inputs["base model"]["sha256"] and inputs["data"]["sha256"] and record["outputs"]["model"]["sha256"]
    assert [bool(start["restored"]) for start in record["starts"]] == [False, True]
    assert f"# {run.name}\n" in (run / "model" / "README.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_kill_after_every_step(trainers: WarmRanks, tmp_path: Path, case: str) -> None:
    """SIGKILL after each step in turn, at a random moment within the next: the final bytes are those of a calm run."""
    calm = killed_after_every_step(trainers, tmp_path, *recipe_of(case, tmp_path), within_s=0.1, names=MEASURED)
    assert_whole_model(calm, case)
    assert_exported(calm, case)


@pytest.mark.slow
def test_a_stop_request_saves_and_continues(trainers: WarmRanks, tmp_path: Path) -> None:
    """Asked to stop, a tuning run saves at the end of its step and says so; the next start goes on behind it."""
    recipe, imports = recipe_of("sft lora", tmp_path)
    recipe["checkpoint"]["every_steps"] = 1000
    run = tmp_path / "run"
    start = trainers.start(run, recipe, ranks=2, modules=imports, **SLOWLY)
    start.wait_until(lambda beat: beat.get("step", 0) >= 2, timeout_s=120)
    (run / "stop").touch()
    assert [75, 75] == start.wait(), logs(run)
    (run / "stop").unlink()
    assert [0, 0] == trainers.finish(run, recipe, ranks=2, modules=imports), logs(run)
    steps = [line["step"] for line in metric_lines(run)]
    assert list(range(1, 13)) == steps


@pytest.mark.slow
def test_a_wrong_row_is_named_by_file_and_line(trainers: WarmRanks, tmp_path: Path) -> None:
    """A row that is not what the method needs ends all ranks with the recipe's exit code, and names the place."""
    recipe, imports = recipe_of("sft", tmp_path)
    rows = tmp_path / "sft.jsonl"
    rows.write_text(rows.read_text() + '{"messages": [{"role": "user", "content": "?"}]}\n')
    run = tmp_path / "run"
    assert [3, 3] == trainers.finish(run, recipe, ranks=2, modules=imports), logs(run)
    assert "sft.jsonl:45" in (run / "log-0").read_text()


def assert_exported(run_dir: Path, case: str) -> None:
    """The last checkpoint leaves as the run's own model: the same weights and settings, for transformers or peft."""
    RunBuilder(run_dir.parent, run_dir.name)
    folder, model = run_dir.parent / "exported", run_dir / "model"
    half = ["--dtype", "bfloat16"] if "bf16" in case else []
    assert 0 == invoke(["checkpoints", "export", str(run_dir), "latest", str(folder), *half])

    names = {path.name for path in model.iterdir()}
    assert names == {path.name for path in folder.iterdir()}
    for name in names - {"README.md", "hpctrain_lineage.json", "adapter_config.json"}:
        assert (folder / name).read_bytes() == (model / name).read_bytes(), name
    if "adapter_config.json" in names:
        said, its = (json.loads((path / "adapter_config.json").read_bytes()) for path in (folder, model))
        assert set(said.pop("target_modules")) == set(its.pop("target_modules"))
        assert set(said.pop("modules_to_save") or ()) <= set(its.pop("modules_to_save") or ())
        assert its == {name: value for name, value in said.items() if name in its}


def assert_whole_model(run_dir: Path, case: str) -> None:
    """The run's model can be loaded as its users would load it, and gives finite numbers."""
    import torch
    from transformers import AutoTokenizer

    from hpctrain.train.tune.model import load_for_use

    method, sections = CASES[case]
    folder = run_dir / "model"
    assert ("adapter" in sections) == (folder / "adapter_config.json").is_file()
    model = load_for_use(str(folder), dtype=torch.float32, reward=method == "reward").eval()
    tokens = AutoTokenizer.from_pretrained(folder)("hello", return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens).logits
    assert ((1, 1) if method == "reward" else (1, 5, 258)) == tuple(logits.shape)
    assert math.isfinite(float(logits.sum()))
    values = json.loads((folder / "adapter_config.json" if "adapter" in sections else folder / "config.json").read_text())
    assert "use_cache" not in values or values["use_cache"] is True
