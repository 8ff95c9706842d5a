"""The record of a run: what was written down, completed by what the run directory shows (adapter over the file system).

A run of an older version has written nothing down; then all of it comes from the run directory, and ``recorded`` is false.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hpctrain.files import read_json_object
from hpctrain.hashing import CACHE_DIR, HashCache
from hpctrain.jobs.event import Event
from hpctrain.jobs.find import read_run
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage import MODEL_FILE, SCHEMA_VERSION, Record, is_weights, mapping, wanted
from hpctrain.jobs.lineage_data import look_at_data
from hpctrain.jobs.lineage_model import look_at
from hpctrain.jobs.reader import read_events, read_plan

_TAIL_BYTES = 256 * 1024
_STATES = {
    "job.submitted": "submitted", "job.started": "started", "job.requeued": "requeued", "trainer.started": "training",
    "job.finished": "finished", "model.saved": "finished", "job.failed": "failed", "job.cancelled": "cancelled",
}
_NUMBERS_LEFT_OUT = {"time", "incarnation", "step_time_s"}


def cache_of(run: RunDir) -> HashCache:
    """Hashes that all runs beside this one share."""
    return HashCache(run.path.parent / CACHE_DIR)


def read_record(folder: Path, below: frozenset[Path] = frozenset()) -> Record | None:
    """The whole record of a run directory; None for any other directory. Reads no weights and no data.

    Args:
        below: runs that are being read already: a run may have been told to start from its own model.
    """
    if folder in below:
        return None
    run = RunDir(folder)
    recorded = read_json_object(run.lineage)
    found = read_run(folder)
    if found is None and not recorded and not run.resolved_json.is_file():
        return None
    record: Record = {"schema_version": SCHEMA_VERSION, "recorded": bool(recorded), **recorded}
    record["run"] = {**_run(run), **mapping(recorded.get("run")), **_job(run)}
    record.setdefault("id", run_id(run.name, str(record["run"].get("submitted_time") or "")))
    values = mapping(mapping(recorded.get("recipe")).get("values")) or read_json_object(run.resolved_json)
    record["recipe"] = {**recipe_facts(run, values), **mapping(recorded.get("recipe"))}
    if "cluster" not in record:
        record["cluster"] = cluster_facts(read_plan(run), found.cluster if found else "")
    if "inputs" not in record:
        record["inputs"] = inputs(values, cache_of(run), read=False, below=below | {folder})
    events = read_events(run)
    record["state"] = state(events)
    record["starts"] = starts(events)
    record["metrics"] = last_metrics(run.metrics) or mapping(recorded.get("metrics"))
    record["outputs"] = _outputs(run, mapping(recorded.get("outputs")), events)
    return record


def read_model_record(folder: Path) -> Record | None:
    """The record that travels with a model directory, or that of the run it lies in; None if there is neither."""
    travelling = read_json_object(folder / MODEL_FILE)
    return travelling or (read_record(folder.resolve().parent) if folder.resolve().name == "model" else None)


def inputs(
    values: Mapping[str, Any], cache: HashCache, *, read: bool, made_sha256: str = "", below: frozenset[Path] = frozenset()
) -> list[Record]:
    """What a resolved recipe takes in: models first, then data.

    Args:
        read: read weights and data whose hash is not known yet; that may take minutes.
        made_sha256: see :func:`hpctrain.jobs.lineage_data.look_at_data`.
        below: see :func:`read_record`.
    """
    read_below = partial(read_record, below=below)
    found = [look_at(one, cache, read_below, read=read) for one in wanted(values)]
    data = mapping(values.get("data"))
    return [*found, look_at_data(data, cache, read=read, made_sha256=made_sha256)] if data else found


def run_id(name: str, moment: str) -> str:
    """A short name for a run that no other run has, also where directories of several clusters come together."""
    return hashlib.sha256(f"{name}\0{moment}".encode(errors="surrogateescape")).hexdigest()[:16]


def recipe_facts(run: RunDir, values: Mapping[str, Any]) -> Record:
    """The recipe by name, hashes and values."""
    return {
        "name": values.get("name"), "method": values.get("method"), "description": values.get("description") or "",
        "sha256": _hash(run.recipe), "resolved_sha256": _hash(run.resolved_json), "values": dict(values),
    }


def cluster_facts(plan: Mapping[str, Any], name: str) -> Record:
    """What the run was given, by its plan."""
    slurm, container = mapping(plan.get("slurm")), mapping(plan.get("container"))
    return {
        "name": name, "partition": slurm.get("partition"), "nodes": plan.get("nodes"), "spares": plan.get("spares"),
        "ranks_per_node": plan.get("ranks_per_node"), "device": plan.get("device"),
        "gpus_per_node": slurm.get("gpus_per_node"), "gpu_type": slurm.get("gpu_type"), "container": container.get("image"),
    }


def state(events: Sequence[Event]) -> str:
    """``finished``, ``failed``, ``cancelled``, ``training``, ... as far as the run's own events tell; "" without any."""
    known = [_STATES[event.kind] for event in events if event.kind in _STATES]
    # The coordinator's own word comes after the model, and says the same.
    return known[-1] if known else ""


def starts(events: Sequence[Event]) -> list[Record]:
    """Every start of the ranks that reached training: when, where, and the checkpoint that it went on from.

    ``restored`` is None for a start from the beginning; ``rewind`` says what was wrong where a start went back on purpose.
    """
    found: list[Record] = []
    restored: Record | None = None
    rewind = ""
    for event in events:
        if event.kind == "loss.bad" and "restore_before" in event.evidence:
            rewind = event.reason
        elif event.kind == "checkpoint.restored":
            restored = {"step": event.step, "checkpoint": str(event.evidence.get("checkpoint") or ""),
                        "tiers": sorted(mapping(event.evidence.get("tiers")))}
        elif event.kind == "trainer.started":
            found.append({"time": event.time, "node": event.node, "step": event.step or 0, "restored": restored,
                          "rewind": rewind})
            restored, rewind = None, ""
    return found


def last_metrics(path: Path, step: int | None = None) -> Record:
    """The numbers of the last step, and the last validation loss near it; empty where no step is done.

    Args:
        step: those of this step instead, if it is among the newest lines.
    """
    record: Record = {}
    for line in reversed(_tail(path)):
        point = parsed(line)
        if "step" not in point or (step is not None and point["step"] > step):
            continue
        if not record:
            record = {key: value for key, value in point.items() if _is_number(value) and key not in _NUMBERS_LEFT_OUT}
        if "validation_loss" in point:
            record.setdefault("validation_loss", point["validation_loss"])
            break
    return record


def _outputs(run: RunDir, recorded: Mapping[str, Any], events: Sequence[Event]) -> Record:
    found: Record = dict(recorded)
    if run.model.is_dir():
        sizes = {path.name: path.stat().st_size for path in sorted(run.model.iterdir()) if is_weights(path.name)}
        files = [{"name": name, "size_bytes": size} for name, size in sizes.items()]
        found.setdefault("model", {"sha256": "", "files": files, "size_bytes": sum(sizes.values())})
        found["model"] = {**found["model"], "path": str(run.model)}
    else:
        found.pop("model", None)
    steps = [event.step for event in events if event.kind == "checkpoint.saved" and event.step is not None]
    found["checkpoints"] = {"newest_step": max(steps, default=None)}
    evaluation = _measured(run.evaluation)
    return {**found, "evaluation": evaluation} if evaluation else found


def _measured(path: Path) -> Record:
    """The numbers of an evaluation, without the samples of what the model wrote."""
    evaluation = read_json_object(path)
    for model in evaluation.get("models") or []:
        for suite in (model.get("suites") or []) if isinstance(model, dict) else []:
            if isinstance(suite, dict):
                suite.pop("samples", None)
    return evaluation


def _run(run: RunDir) -> Record:
    return {"name": run.name, "directory": str(run.path)}


def _job(run: RunDir) -> Record:
    """What only ``run.json`` knows, since it is written after everything else."""
    found = read_json_object(run.record)
    keys = ("job_id", "user", "host", "submitted_time", "recipe", "sets", "hpctrain_version")
    return {key: found[key] for key in keys if found.get(key) not in (None, "", [])}


def _tail(path: Path) -> list[bytes]:
    with contextlib.suppress(OSError), path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        return file.read().splitlines()
    return []


def parsed(line: bytes) -> Record:
    """One line of metrics; empty where it is torn."""
    with contextlib.suppress(ValueError):
        value = json.loads(line)
        return value if isinstance(value, dict) else {}
    return {}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _hash(path: Path) -> str:
    with contextlib.suppress(OSError):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return ""
