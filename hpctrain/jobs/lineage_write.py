"""Writes the record of a run: when it is submitted, when it trains, when its model is saved (service).

Each writer completes what is there. ``gathered`` says that the trainer has looked at weights, data and environment; what
changed between two starts of a run (its code was edited, packages were updated) is kept under ``earlier``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.files import read_json_object, write_json_atomic
from hpctrain.hashing import Progress
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage import MODEL_FILE, SCHEMA_VERSION, Record, mapping
from hpctrain.jobs.lineage_code import checkout, code_version
from hpctrain.jobs.lineage_environment import environment
from hpctrain.jobs.lineage_model import facts_of, weights
from hpctrain.jobs.lineage_read import (
    cache_of,
    cluster_facts,
    inputs,
    last_metrics,
    read_record,
    recipe_facts,
    run_id,
)

_EARLIER_AT_MOST = 20


def submission_record(
    run: RunDir, *, values: Mapping[str, Any], plan: Mapping[str, Any], cluster: str, source: str, sets: list[str],
    time_s: float,
) -> Record:
    """What is known when a run is submitted; its recipe files are written already. Reads no weights and no data.

    Args:
        values: the resolved recipe as plain JSON.
        plan: as ``plan.json`` has it.
        cluster: Slurm's name of the cluster.
        source: path of the recipe file.
        sets: ``--set`` arguments.
        time_s: now, seconds since the epoch.
    """
    return {
        "schema_version": SCHEMA_VERSION, "id": run_id(run.name, str(time_s)), "created_time": time_s,
        "run": {"name": run.name, "directory": str(run.path)},
        "recipe": {**recipe_facts(run, values), "source": source, "sets": sets},
        "code": code_version(), "workdir": _workdir(values), "cluster": cluster_facts(plan, cluster),
        "inputs": inputs(values, cache_of(run), read=False),
    }


def gather(
    run: RunDir, values: Mapping[str, Any], *, time_s: float, facts: Mapping[str, Any] | None = None, made_sha256: str = ""
) -> Record:
    """Complete the record of a run that trains; hashes weights and data that were not hashed before. Called at every start.

    Args:
        values: the resolved recipe as plain JSON.
        time_s: now, seconds since the epoch.
        facts: what the trainer knows of its surroundings, such as the version of CUDA.
        made_sha256: see :func:`hpctrain.jobs.lineage_data.look_at_data`.

    Raises:
        StorageError: it cannot be written.
    """
    record = read_json_object(run.lineage)
    record.setdefault("schema_version", SCHEMA_VERSION)
    record.setdefault("id", run_id(run.name, str(time_s)))
    record.setdefault("created_time", time_s)
    record["run"] = {"name": run.name, "directory": str(run.path)}
    if "recipe" not in record:
        record["recipe"] = recipe_facts(run, values)
    if "workdir" not in record:  # git is asked once, when the run was submitted
        record["workdir"] = _workdir(values)
    _renew(record, "code", code_version(), time_s)
    _renew(record, "environment", {**environment(), **(facts or {})}, time_s)
    record["inputs"] = inputs(values, cache_of(run), read=True, made_sha256=made_sha256)
    record["gathered"] = {"time": time_s}
    write_json_atomic(run.lineage, record, durable=False)
    return record


def model_saved(
    folder: Path, run: RunDir, *, time_s: float, checkpoint: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Record:
    """Hash a model that is about to get its name, write its record beside it, and return that.

    Args:
        folder: of the model; under another name than it will have.
        run: whose work it is.
        checkpoint: ``step`` and ``name`` of the checkpoint that it was made from; None: it is the run's final model, and
            the run's own record names it.
        progress: see :func:`hpctrain.hashing.hash_files`; called from several threads.

    Raises:
        StorageError: a record cannot be written.
    """
    hashed = weights(folder, cache_of(run), progress=progress)
    model: Record = {**facts_of(hashed), "saved_time": time_s}
    record = read_record(run.path) or {"schema_version": SCHEMA_VERSION, "run": {"name": run.name}, "inputs": []}
    if checkpoint is not None:
        model["checkpoint"] = dict(checkpoint)
        record["metrics"] = last_metrics(run.metrics, int(checkpoint["step"])) or {"step": checkpoint["step"]}
    else:
        record["state"] = "finished"
        kept = read_json_object(run.lineage)
        if kept:
            kept["outputs"], kept["metrics"] = {"model": model}, record.get("metrics") or {}
            write_json_atomic(run.lineage, kept, durable=False)
    record["outputs"] = {**mapping(record.get("outputs")), "model": model}
    write_json_atomic(folder / MODEL_FILE, record, durable=False)
    return record


def _workdir(values: Mapping[str, Any]) -> Record | None:
    """The user's own code: the git checkout that the recipe lies in, if it does."""
    folder = values.get("workdir")
    return checkout(Path(folder)) if isinstance(folder, str) and folder else None


def _renew(record: Record, key: str, value: Record, time_s: float) -> None:
    before = record.get(key)
    record[key] = value
    if before and before != value:
        earlier = mapping(record.get("earlier"))
        record["earlier"] = {**earlier, key: [*(earlier.get(key) or []), {"until": time_s, **before}][-_EARLIER_AT_MOST:]}
