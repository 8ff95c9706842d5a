"""What a run came from, and what came out of it, as one record: shapes and words (pure).

A record is plain JSON. It lies in the run directory as ``lineage.json``, and in every finished model directory as
``hpctrain_lineage.json``, so that a model that was copied elsewhere still says where it comes from. An *input* of a run
(its base model, its data, a teacher) holds the brief record of the run that made it, and that one those of its own inputs:
the chain is whole although a run of it was deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SCHEMA_VERSION = 1
MODEL_FILE = "hpctrain_lineage.json"
"""The record that travels with a model."""
BASE, DATA = "base model", "data"
MAX_DEPTH = 100
"""Generations that a record keeps; a model trained on and on drops those before."""
MAX_FILES = 256
"""Files that an input names one by one; of more, only their number and common hash are kept."""

Record = dict[str, Any]

_WEIGHTS = re.compile(r"^((pytorch_|adapter_|consolidated|model).*\.(bin|pt|pth)|.+\.(safetensors|gguf))$")
_USER = re.compile(r"(?<=//)[^/@\s]*@")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Something that a recipe takes in.

    Attributes:
        role: ``base model``, ``architecture``, ``tokenizer``, ``reward model``, ``teacher`` or ``judge``.
        path: a directory or a hub id; "" for an endpoint.
        endpoint: where a served model answers, without credentials.
        model: its name there.
    """

    role: str
    path: str = ""
    endpoint: str = ""
    model: str = ""


def wanted(values: Mapping[str, Any]) -> list[Wanted]:
    """The models that a resolved recipe starts from or asks; its data is apart, see :mod:`hpctrain.jobs.lineage_data`.

    Args:
        values: ``Recipe.model_dump(mode="json")``, of this version or another.
    """
    found = []
    model, method = section(values, "model"), values.get("method")
    if model.get("path"):
        found.append(Wanted("architecture" if method == "pretrain" else BASE, str(model["path"])))
    tokenizer = section(values, "tokenizer").get("path")
    if tokenizer and tokenizer != model.get("path"):
        found.append(Wanted("tokenizer", str(tokenizer)))
    rewards = values.get("rewards")
    given = [reward for reward in rewards if isinstance(reward, Mapping)] if isinstance(rewards, list) else []
    found += [Wanted("reward model", str(reward["path"])) for reward in given if reward.get("path")]
    teacher = section(values, "teacher")
    if teacher.get("path"):
        found.append(Wanted("teacher", str(teacher["path"])))
    for role, served in (("teacher", section(teacher, "endpoint")), ("judge", section(values, "judge"))):
        if served.get("url"):
            found.append(Wanted(role, endpoint=without_user(str(served["url"])), model=str(served.get("model") or "")))
    return found


def is_weights(name: str) -> bool:
    """A file of a model directory that holds weights, and not, say, an optimizer's state."""
    return bool(_WEIGHTS.match(name))


def without_user(url: str) -> str:
    """A URL without the user name and password that may stand in it."""
    return _USER.sub("", url)


def brief(record: Mapping[str, Any], depth: int = MAX_DEPTH) -> Record:
    """What the record of a run keeps of the runs before it: all but the long lists."""
    kept: Record = {key: record[key] for key in ("id", "run", "state", "metrics") if key in record}
    recipe = section(record, "recipe")
    kept["recipe"] = {key: recipe[key] for key in ("name", "method", "sha256", "resolved_sha256") if key in recipe}
    code = section(record, "code")
    kept["code"] = {key: code[key] for key in ("version", "how", "commit", "dirty") if key in code}
    kept["model"] = {key: value for key, value in section(section(record, "outputs"), "model").items() if key != "files"}
    inputs = [entry for entry in record.get("inputs") or [] if isinstance(entry, Mapping)]
    kept["inputs"] = [_brief_input(entry, depth - 1) for entry in inputs] if depth > 0 else []
    if depth <= 0 and inputs:
        kept["cut"] = True
    return kept


def _brief_input(entry: Mapping[str, Any], depth: int) -> Record:
    kept = {key: value for key, value in entry.items() if key not in ("files", "record")}
    if isinstance(entry.get("record"), Mapping):
        kept["record"] = brief(entry["record"], depth)
    return kept


def parent(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The base model among a record's inputs, if it is the work of another run of ours."""
    for entry in record.get("inputs") or []:
        if isinstance(entry, Mapping) and entry.get("role") == BASE and isinstance(entry.get("record"), Mapping):
            return entry
    return None


def ancestors(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(role, brief record) of every run that a record stands on, nearest first in each branch."""
    for entry in record.get("inputs") or []:
        below = entry.get("record") if isinstance(entry, Mapping) else None
        if isinstance(below, Mapping):
            yield str(entry.get("role") or ""), below
            yield from ancestors(below)


def section(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A part of a record; empty where it is missing or no mapping."""
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def mapping(value: object) -> Record:
    """The value, or an empty record where it is none."""
    return value if isinstance(value, dict) else {}
