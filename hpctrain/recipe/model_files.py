"""Looks whether the directory of a model is whole before anybody waits for GPUs (adapter over the file system)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from hpctrain.files import read_json_object
from hpctrain.recipe.chat_template import chat_template
from hpctrain.recipe.node import Path as Place
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import TUNING

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "hpctrain_tokenizer.json", "vocab.json",
               "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json")
_LENGTH_BYTES = 8
"""At the beginning of a safetensors file: the length of its header."""
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
    elif not isinstance(read_json_object(folder / "config.json").get("model_type"), str):
        yield Problem(place, f"{folder}/config.json names no 'model_type', or is no JSON: it is damaged")
    elif weights:
        yield from _weights(folder, place)


def tokenizer_problems(recipe: Recipe) -> Iterator[Problem]:
    """A local directory that the tokenizer is taken from and that holds none."""
    path, place = recipe.tokenizer.path, ("tokenizer", "path")
    if path is None and recipe.model and recipe.method not in (None, "pretrain"):
        path, place = recipe.model.path, ("model", "path")
    if recipe.tokenizer.kind == "bytes" or path is None or not Path(path).is_absolute() or not Path(path).is_dir():
        return
    folder = Path(path)
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        yield Problem(place, f"{folder} holds no tokenizer (none of {', '.join(_TOKENIZERS[:3])}, ...)",
                      hint="copy the tokenizer's files beside the weights, or set tokenizer.path to where they are")


def template_problems(recipe: Recipe) -> Iterator[Problem]:
    """A chat template that is named and not there, needed and not there, or no jinja."""
    named = recipe.chat.template
    if named is not None and not Path(named).is_file():
        yield Problem(("chat", "template"), f"no such file: {named}")
        return
    template = chat_template(recipe)
    if broken := template.syntax_problem() if template is not None else "":
        yield Problem(("chat", "template"), broken, hint="mend the file, or set chat.template to one that works")
        return
    folder = Path(recipe.tokenizer.path or (recipe.model.path if recipe.model else None) or "")
    if named is not None or recipe.method not in TUNING or recipe.tokenizer.kind == "bytes" or not folder.is_absolute():
        return
    made = recipe.data is not None and recipe.data.source in ("docstring-questions", "arithmetic")
    talks = recipe.data is not None and (recipe.data.format == "chat" or made)
    if talks and template is not None and not template.texts:
        yield Problem(
            ("chat", "template"), f"the tokenizer in {folder} has no chat template, and the data holds conversations",
            hint="set chat.template to a jinja file, or start from a model that was tuned for chat")


def _adapter(folder: Path, place: Place) -> Iterator[Problem]:
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        yield Problem(place, f"{folder} is an adapter without its weights: adapter_model.safetensors is missing")
    base = read_json_object(folder / "adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and base.startswith("/") and not Path(base).is_dir():
        yield Problem(place, f"{folder} is an adapter of {base}, which is not there")


def _weights(folder: Path, place: Place) -> Iterator[Problem]:
    whole = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if whole is not None:
        yield from _cut_off([whole], folder, place)
        return
    index = next((folder / name for name in _INDICES if (folder / name).is_file()), None)
    if index is None:
        yield Problem(place, f"{folder} holds no weights (neither {_WEIGHTS[0]} nor {_INDICES[0]})")
        return
    named = read_json_object(index).get("weight_map")
    files = sorted(set(map(str, named.values()))) if isinstance(named, dict) else []
    if not files:
        yield Problem(place, f"{index} names no files of weights: it is damaged")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        yield Problem(place, f"{folder} is incomplete: {len(missing)} of {len(files)} files of weights are missing, "
                             f"the first is {missing[0]}")
    else:
        yield from _cut_off([folder / name for name in files], folder, place)


def _cut_off(files: list[Path], folder: Path, place: Place) -> Iterator[Problem]:
    """Files that are shorter than they say themselves, such as after a copy that broke off."""
    for file in files:
        wanted, size = _size_wanted(file), file.stat().st_size
        if wanted is not None and size < wanted:
            yield Problem(place, f"{folder} is incomplete: {file.name} holds {size:,} of {wanted:,} bytes: copy it again")
            return


def _size_wanted(file: Path) -> int | None:
    """Bytes of a file of weights as far as it says; None where it does not."""
    if file.suffix != ".safetensors":
        return 1
    try:
        header_end, end = safetensors_extent(file)
        return end if end is not None else header_end if header_end > file.stat().st_size else None
    except OSError:
        return None


def safetensors_extent(file: Path) -> tuple[int, int | None]:
    """Where the header of a safetensors file ends, and where its last tensor does, as the file says itself.

    It begins with the length of its header, which says where each tensor ends. The second number is None where the header
    is damaged or cut off.

    Raises:
        OSError: it cannot be read.
    """
    with file.open("rb") as reader:
        start = reader.read(_LENGTH_BYTES)
        if len(start) < _LENGTH_BYTES:
            return _LENGTH_BYTES, None
        header_end = _LENGTH_BYTES + max(int.from_bytes(start, "little"), 1)
        if header_end > file.stat().st_size:
            return header_end, None
        header = reader.read(header_end - _LENGTH_BYTES)
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in dict(json.loads(header)).items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError):
        return header_end, None
    return header_end, header_end + max(ends, default=0)
