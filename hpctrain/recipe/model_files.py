"""Looks whether the directory of a model is whole before anybody waits for GPUs (adapter over the file system)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpctrain.recipe.node import Path as Place
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import TUNING

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def model_problems(folder: Path, place: Place, *, weights: bool) -> Iterator[Problem]:
    """What is missing of a model or an adapter.

    Args:
        weights: they are needed, not only the architecture.
    """
    if (folder / "adapter_config.json").is_file():
        yield from _adapter(folder, place)
    elif not (folder / "config.json").is_file():
        yield Problem(place, f"{folder} holds no config.json, so it is no transformers model")
    elif weights:
        yield from _weights(folder, place)


def template_problems(recipe: Recipe) -> Iterator[Problem]:
    """A chat template that is named and not there, or needed and not there."""
    named = recipe.chat.template
    if named is not None and not Path(named).is_file():
        yield Problem(("chat", "template"), f"no such file: {named}")
    folder = Path(recipe.tokenizer.path or (recipe.model.path if recipe.model else None) or "")
    if named is not None or recipe.method not in TUNING or recipe.tokenizer.kind == "bytes" or not folder.is_absolute():
        return
    made = recipe.data is not None and recipe.data.source in ("docstring-questions", "arithmetic")
    talks = recipe.data is not None and (recipe.data.format == "chat" or made)
    if talks and folder.is_dir() and not _has_template(folder):
        yield Problem(
            ("chat", "template"), f"the tokenizer in {folder} has no chat template, and the data holds conversations",
            hint="set chat.template to a jinja file, or start from a model that was tuned for chat")


def _adapter(folder: Path, place: Place) -> Iterator[Problem]:
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        yield Problem(place, f"{folder} is an adapter without its weights: adapter_model.safetensors is missing")
    base = _read(folder / "adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and base.startswith("/") and not Path(base).is_dir():
        yield Problem(place, f"{folder} is an adapter of {base}, which is not there")


def _weights(folder: Path, place: Place) -> Iterator[Problem]:
    if any((folder / name).is_file() for name in _WEIGHTS):
        return
    index = next((folder / name for name in _INDICES if (folder / name).is_file()), None)
    if index is None:
        yield Problem(place, f"{folder} holds no weights (neither {_WEIGHTS[0]} nor {_INDICES[0]})")
        return
    named = _read(index).get("weight_map")
    files = sorted(set(named.values())) if isinstance(named, dict) else []
    missing = [name for name in files if not (folder / str(name)).is_file()]
    if missing:
        yield Problem(place, f"{folder} is incomplete: {len(missing)} of {len(files)} files of weights are missing, "
                             f"the first is {missing[0]}")


def _has_template(folder: Path) -> bool:
    if (folder / "hpctrain_tokenizer.json").is_file():
        return True  # of bytes, which brings its own
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return bool(_read(folder / "tokenizer_config.json").get("chat_template"))


def _read(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
