"""The trainer as its user meets it: results, stopping, mistakes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.train.environment import EXIT_STOPPED
from tests.train.ranks import WarmRanks, event_kinds, final_weights, logs, make_recipe, metric_lines

NO_DROPOUT = {"model__config__attention_dropout": 0.0}
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64}


def losses(run_dir: Path) -> list[float]:
    return [line["loss"] for line in metric_lines(run_dir)]


@pytest.mark.slow
def test_number_and_kind_of_ranks_do_not_change_the_training(trainers: WarmRanks, tmp_path: Path) -> None:
    """DDP, FSDP2 and HSDP on 4 ranks, with and without accumulation, compute what one process computes."""
    variants: dict[str, tuple[int, dict[str, Any]]] = {
        "alone": (1, {}), "ddp": (4, {}), "accumulating": (4, {"training__micro_batch_size": 1}),
        "fsdp2": (4, {"training__parallelism": {"kind": "fsdp2"}, "training__micro_batch_size": 1}),
        "hsdp": (4, {
            "training__parallelism": {"kind": "hsdp", "shard_size": 2}, "training__activation_checkpointing": True,
        }),
        "tied": (4, {"training__parallelism": {"kind": "fsdp2"}, "model__config__tie_word_embeddings": True}),
        "tied alone": (1, {"model__config__tie_word_embeddings": True}),
    }
    for name, (ranks, overrides) in variants.items():
        common = {"training__steps": 3, "checkpoint__every_steps": 100, "data__validation_fraction": 0.0003}
        recipe = make_recipe(**common, **NO_DROPOUT, **overrides)
        assert [0] * ranks == trainers.finish(tmp_path / name, recipe, ranks), logs(tmp_path / name)

    for name in ("ddp", "accumulating", "fsdp2", "hsdp"):
        assert losses(tmp_path / "alone") == pytest.approx(losses(tmp_path / name), rel=1e-5), name
    assert losses(tmp_path / "tied alone") == pytest.approx(losses(tmp_path / "tied"), rel=1e-5)
    validation = {name: metric_lines(tmp_path / name)[-1]["validation_loss"] for name in ("alone", "ddp", "fsdp2")}
    assert [validation["alone"]] * 2 == pytest.approx([validation["ddp"], validation["fsdp2"]], rel=1e-5)


@pytest.mark.slow
def test_stop_on_request_and_continue_on_fewer_ranks(trainers: WarmRanks, tmp_path: Path) -> None:
    """A stop file that one rank sees ends all of them with 75 after a save; 2 ranks continue sample-exactly."""
    recipe = make_recipe(training__parallelism={"kind": "fsdp2"}, checkpoint__every_steps=1000, **NO_DROPOUT)
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    assert [0] * 4 == trainers.finish(calm, recipe), logs(calm)

    start = trainers.start(stopped, recipe)
    start.wait_until(lambda beat: beat.get("step", 0) >= 3)
    os.kill(start.pids[3], signal.SIGTERM)
    assert [EXIT_STOPPED] * 4 == start.wait(), logs(stopped)
    done = metric_lines(stopped)[-1]["step"]
    assert (stopped / "checkpoints" / f"step-{done:08d}.i000" / "commit.json").exists()
    assert [0] * 2 == trainers.finish(stopped, recipe, 2), logs(stopped)

    assert list(range(1, 13)) == [line["step"] for line in metric_lines(stopped)]
    assert losses(calm) == pytest.approx(losses(stopped), rel=1e-4)
    kinds = [kind for kind in event_kinds(stopped) if kind != "checkpoint.schedule"]
    assert ["data.prepared", "trainer.started", "step.first", "checkpoint.saved"] == kinds[:4]
    assert {"checkpoint.restored", "trainer.finished", "model.saved"} <= set(event_kinds(stopped))


def _has_lineage(child: Path, base: Path) -> None:
    """The later run names the earlier one, with the weights that lie there, and both models have a card."""
    record = json.loads((child / "model" / "hpctrain_lineage.json").read_bytes())
    (used,) = [entry for entry in record["inputs"] if entry["role"] == "base model"]
    content = (base / "model" / "model.safetensors").read_bytes()
    assert (used["name"], used["state"]) == ("first", "as saved")
    assert used["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert record["outputs"]["model"]["files"][0]["sha256"] and record["environment"]["torch"] and record["code"]["version"]
    card = (child / "model" / "README.md").read_text()
    assert "trained further on text, starting from first" in card and str(base) not in card


@pytest.mark.slow
def test_final_model_is_read_by_others(trainers: WarmRanks, tmp_path: Path) -> None:
    """AutoModel loads the final model, stock torch the sharded checkpoint; both hold the same weights; cpt continues."""
    first, constant = tmp_path / "first", {"training__schedule": {"kind": "constant"}}
    recipe = make_recipe(training__parallelism={"kind": "fsdp2"}, model__config=GPT2, **constant)
    assert [0] * 4 == trainers.finish(first, recipe), logs(first)

    import torch
    import torch.distributed.checkpoint as dcp
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(first / "model")
    stock = {f"model.{name}": torch.zeros_like(value) for name, value in model.state_dict().items()}
    dcp.load(stock, checkpoint_id=first / "checkpoints" / "step-00000012.i000")
    assert all(torch.equal(value, stock[f"model.{name}"]) for name, value in model.state_dict().items())
    assert "GPT2LMHeadModel" in (first / "model" / "config.json").read_text()

    again = tmp_path / "again"
    recipe = make_recipe(method="cpt", model={"path": str(first / "model")}, training__steps=2, **constant)
    assert [0] * 4 == trainers.finish(again, recipe), logs(again)
    assert losses(again)[0] < losses(first)[0] - 0.5
    _has_lineage(again, first)


@pytest.mark.slow
def test_full_disk_on_one_rank_is_agreed_on(trainers: WarmRanks, tmp_path: Path) -> None:
    """When one of four ranks cannot write, all know, nothing half-written stays, and the next step's save works."""
    codes = trainers.finish(tmp_path / "run", make_recipe(), target="tests.train.targets:save_with_one_full_disk")

    assert [0] * 4 == codes, logs(tmp_path / "run")
    found = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert ["step-00000002.i000", "step-00000005.i000"] == found


MISTAKES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no such model": (4, "there is no model at /no/such/model", {"model": {"path": "/no/such/model"}}),
    "unknown architecture": (3, "knows no model_type 'lama'; did you mean 'llama'?", {"model__config__model_type": "lama"}),
    "too little data": (3, "fewer than one global batch", {"data__sequence_length": 400_000}),
    "vocabulary too small": (3, "the model knows 100 tokens, the tokenizer makes 258", {"model__config__vocab_size": 100}),
    "batch does not divide": (3, "17 is not a multiple", {"training__global_batch_size": 17}),
    "no such file": (4, "nothing.txt", {"data": {"source": "files", "paths": ["nothing.txt"]}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_one_message(trainers: WarmRanks, tmp_path: Path, mistake: str) -> None:
    """A user's mistake ends all ranks with its exit code, one message from rank 0, and no traceback anywhere."""
    code, words, overrides = MISTAKES[mistake]
    codes = trainers.finish(tmp_path / "run", make_recipe(**overrides), 2)

    said = logs(tmp_path / "run")
    assert [code] * 2 == codes, said
    assert 1 == said.count("error: ")
    assert words in said
    assert "Traceback" not in said
    record = json.loads((tmp_path / "run" / "error-0.json").read_text())["message"]
    assert record["extraInfo"]["py_callstack"].startswith(f"error: {record['message']}")


@pytest.mark.slow
def test_crash_leaves_a_traceback_for_the_launcher(trainers: WarmRanks, tmp_path: Path) -> None:
    """An exception of the code itself is exit code 1, and torchrun's error file holds message and traceback."""
    recipe = make_recipe(model__config={**GPT2, "n_positions": 16})  # shorter than the samples
    assert [1] == trainers.finish(tmp_path / "run", recipe, 1)

    record = json.loads((tmp_path / "run" / "error-0.json").read_text())["message"]
    assert "IndexError" in record["message"]
    assert "Traceback" in record["extraInfo"]["py_callstack"]


def test_cuda_that_is_not_there_is_said(trainers: WarmRanks, tmp_path: Path) -> None:
    """Asking for GPUs where torch sees none is one clear message."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert [1] == trainers.finish(tmp_path / "run", make_recipe(), 1, HPCTRAIN_DEVICE="cuda")

    assert "n1: local rank 0 is to train on a GPU, but torch sees 0 of them" in logs(tmp_path / "run")


@pytest.mark.slow
def test_plain_torchrun_and_no_launcher(tmp_path: Path) -> None:
    """On a laptop the trainer runs under torchrun, and without any launcher continues what torchrun began."""
    recipe = make_recipe(training__steps=2, training__optimizer={"kind": "sgd", "learning_rate": 0.1})
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    run_dir = tmp_path / "run with blank"
    run_dir.mkdir()
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    arguments = ["-m", "hpctrain.train", "--run-dir", str(run_dir), "--recipe", str(tmp_path / "r.json")]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = process.run([*torchrun, *arguments], env=env, timeout_s=200)
    assert result.ok, result.stderr
    recipe["training"]["steps"] = 3
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    result = process.run([sys.executable, *arguments], env=env, timeout_s=200)
    assert result.ok, result.stderr

    lines = metric_lines(run_dir)
    assert [(1, 0), (2, 0), (3, 1)] == [(line["step"], line["incarnation"]) for line in lines]
    assert all(math.isfinite(line["grad_norm"]) for line in lines)
    assert final_weights(run_dir)
