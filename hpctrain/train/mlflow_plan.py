"""What MLflow is told of a run, in MLflow's shapes and within its limits (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.jobs.lineage import DATA, parent, section

LONGEST_VALUE = 500
"""Characters of a parameter or tag; servers of MLflow 2 take no more."""
LONGEST_KEY = 250
BATCH = 1000
"""Metrics that MLflow takes at once."""
BATCH_NAMES = 100
"""Parameters, or tags, that MLflow takes at once."""
_NOT_IN_NAMES = re.compile(r"[^\w\-. /:]")
_NO_METRICS = {"step", "time", "incarnation"}
_LEFT_OUT = ("version", "name", "description", "workdir", "env")


@dataclass(frozen=True, slots=True)
class Value:
    """One number of one step; ``time_ms`` since the epoch."""

    key: str
    value: float
    time_ms: int
    step: int


def params(values: Mapping[str, Any]) -> dict[str, str]:
    """A resolved recipe as parameters: ``training.steps``; lists as JSON, long values cut, what is unset left out."""
    return {_name(key): _cut(value) for key, value in _flat(values, "") if key.partition(".")[0] not in _LEFT_OUT}


def tags(record: Mapping[str, Any], parent_run_id: str = "") -> dict[str, str]:
    """The rest of a record.

    Args:
        parent_run_id: MLflow's id of the run whose model this one starts from; MLflow then shows this one below it.
    """
    run, code, recipe = section(record, "run"), section(record, "code"), section(record, "recipe")
    model, metrics = section(section(record, "outputs"), "model"), section(record, "environment")
    found: dict[str, Any] = {
        "mlflow.runName": run.get("name"), "mlflow.user": run.get("user"), "mlflow.parentRunId": parent_run_id,
        "mlflow.source.name": recipe.get("source") or recipe.get("name"), "mlflow.source.git.commit": code.get("commit"),
        "mlflow.note.content": recipe.get("description"), "hpctrain.id": record.get("id"), "hpctrain.run": run.get("name"),
        "hpctrain.job": run.get("job_id"), "hpctrain.cluster": section(record, "cluster").get("name"),
        "hpctrain.version": code.get("version"), "hpctrain.code_changed": code.get("dirty"),
        "hpctrain.recipe_sha256": recipe.get("resolved_sha256"), "hpctrain.model_sha256": model.get("sha256"),
        "hpctrain.state": record.get("state"), "hpctrain.starts": len(record.get("starts") or []) or None,
        "hpctrain.torch": metrics.get("torch"), "hpctrain.gpu": metrics.get("gpu"),
    }
    for entry in record.get("inputs") or []:
        if entry.get("role") != DATA:
            word = re.sub(r"\W", "_", str(entry.get("role")))
            found[f"hpctrain.{word}"] = entry.get("name")
            found[f"hpctrain.{word}_sha256"] = entry.get("sha256")
    base = parent(record)
    if base is not None:
        found["hpctrain.parent_run"] = base.get("name")
        found["hpctrain.parent_checkpoint"] = section(base, "checkpoint").get("name")
    return {_name(key): _cut(value) for key, value in found.items() if value not in (None, "")}


def data_sets(record: Mapping[str, Any]) -> list[dict[str, str]]:
    """The data among a record's inputs: ``name``, ``digest``, ``source_type``, ``source``."""
    found = []
    for entry in record.get("inputs") or []:
        if entry.get("role") == DATA:
            source = {key: entry[key] for key in ("paths", "name", "subset", "split", "revision") if entry.get(key)}
            digest = str(entry.get("sha256") or entry.get("revision") or "unknown")
            found.append({"name": _cut(entry.get("name") or "data"), "digest": digest[:36],  # as long as MLflow stores
                          "source_type": "hpctrain", "source": json.dumps(source)})
    return found


def step_values(record: Mapping[str, Any]) -> list[Value]:
    """The numbers of one line of ``metrics.jsonl``; a loss that was no number is one for MLflow too."""
    step, moment = record.get("step"), record.get("time")
    if not isinstance(step, int) or not isinstance(moment, (int, float)):
        return []
    numbers = {key: float("nan") if value is None else value for key, value in record.items() if key not in _NO_METRICS}
    return [Value(_name(key), float(value), int(moment * 1000), step) for key, value in numbers.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)]


def evaluation_values(evaluation: Mapping[str, Any], *, time_ms: int, step: int) -> list[Value]:
    """Every measure of the evaluation at the end: ``evaluation.after.perplexity.loss``; see :mod:`hpctrain.evaluate`."""
    found = []
    for model in _entries(evaluation.get("models")):
        for suite in _entries(model.get("suites")):
            for measure in _entries(suite.get("measures")):
                value, names = measure.get("value"), (model.get("label"), suite.get("name"), measure.get("name"))
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    key = ".".join(["evaluation", *(str(name) for name in names)])
                    found.append(Value(_name(key), float(value), time_ms, step))
    return found


def batches(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    """In pieces that MLflow takes."""
    for begin in range(0, len(values), BATCH):
        yield values[begin : begin + BATCH]


def _flat(values: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, path)
        elif value not in (None, "", [], {}):
            yield path, value


def _entries(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _name(key: str) -> str:
    return _NOT_IN_NAMES.sub("_", key)[:LONGEST_KEY]


def _cut(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
