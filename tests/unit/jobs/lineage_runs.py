"""Runs with models and records, as submission and the trainer leave them, for the tests of lineage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage_write import gather, model_saved
from hpctrain.testing.run_builder import RunBuilder

START = 1_800_000_000.0


def values(method: str = "sft", **sections: Any) -> dict[str, Any]:
    """A resolved recipe, as far as lineage looks at it."""
    return {"version": 1, "name": "tiny", "method": method, "data": {"source": "python-docs", "paths": []}, **sections}


def make_run(root: Path, name: str, resolved: dict[str, Any], *, weights: bytes | None = None, job_id: int = 1) -> RunDir:
    """A run; with weights, one that has finished and left a model and its records."""
    builder = RunBuilder(root, name, job_id=job_id, submitted=START)
    run = builder.dir
    run.resolved_json.write_text(json.dumps(resolved))
    run.recipe.write_text(f"version: 1\nname: {name}\n")
    builder.steps(1, 5, start=START)
    if weights is not None:
        gather(run, resolved, time_s=START, made_sha256="d" * 64)
        partial = run.path / ".model.partial"
        make_model(partial, weights)
        model_saved(partial, run, time_s=START + 60)
        partial.rename(run.model)
        builder.event(START + 61, "trainer", "model.saved", step=5)
    return run


def make_model(folder: Path, weights: bytes) -> Path:
    """A model directory with nothing but what lineage looks at."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def chain(root: Path) -> tuple[RunDir, RunDir, RunDir]:
    """Pretrain -> sft -> dpo, each finished."""
    first = make_run(root, "base-1", values("pretrain", model={"config": {"model_type": "llama"}}), weights=b"one")
    second = make_run(root, "sft-1", values(model={"path": str(first.model)}), weights=b"two", job_id=2)
    third = make_run(root, "dpo-1", values("dpo", model={"path": str(second.model)}), weights=b"three", job_id=3)
    return first, second, third
