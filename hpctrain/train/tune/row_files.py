"""Rows as tokens in files that every rank maps into memory (adapter over ``datasets``)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpctrain.data.identity import stamps
from hpctrain.data.read import rows, validation_rows
from hpctrain.errors import RecipeError
from hpctrain.files import make_private_dir, storage_errors, write_json_atomic
from hpctrain.recipe.schema import Data
from hpctrain.recipe.units import several
from hpctrain.train.drafts import draft_of, put_in_place
from hpctrain.train.prepared import FOLDER
from hpctrain.train.tune.tokenizer import identity as tokenizer_identity

VERSION = 1
"""Of these files."""
Encode = Callable[[dict[str, Any], str], "dict[str, list[int]] | None"]
"""Makes columns of numbers of a row and its place (``file:line``); None leaves the row out, since it is too long."""
_PLACES = ("paths", "name", "mode", "copy_to")
"""Where rows lie and how they are read: what does not change what they hold."""


class Encoding(NamedTuple):
    """How the rows of a method become tokens.

    Attributes:
        options: plain JSON that changes when what ``encode`` makes would.
        pack: fill sequences of so many tokens with several rows each; 0 does not.
    """

    encode: Encode
    options: Any
    pack: int = 0


def rows_key(method: str, data: Data, tokenizer: Any, encoding: Encoding, *, contents: str | None = None) -> str:
    """Hash of everything that the files depend on.

    Args:
        contents: hash of the data's contents; None takes names and times of its files instead, which costs nothing.
    """
    section = {key: value for key, value in data.model_dump(mode="json").items() if key not in _PLACES}
    source = stamps(data) if contents is None else contents
    parts = [VERSION, method, section, source, tokenizer_identity(tokenizer), [encoding.options, encoding.pack]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_rows(
    method: str, data: Data, encoding: Encoding, folder: Path, beat: Callable[[int], None]
) -> dict[str, Any]:
    """Read, check and tokenise all rows into a folder, whole or not at all; return what is in it.

    Args:
        beat: told the number of rows now and then.

    Raises:
        RecipeError: a row is not what it should be (with ``file:line``), or none is short enough.
        StorageError: the folder cannot be written.
    """
    left_out = 0
    found: list[dict[str, Any]] = []
    for number, row in enumerate(rows(data, method), start=1):
        if number % 1000 == 0:
            beat(number)
        columns = encoding.encode(row.values, row.where)
        if columns is None:
            left_out += 1
        else:
            found.append({name: np.asarray(values, dtype=np.int32) for name, values in columns.items()})
    if not found:
        raise RecipeError(
            f"none of {several(left_out, 'row')} fits into {data.sequence_length} tokens" if left_out
            else "the data holds no rows", where="data.sequence_length" if left_out else "data",
        )
    training = len(found) - validation_rows(len(found), data.validation_fraction)
    facts: dict[str, Any] = {"rows": len(found), "left_out": left_out, "packed": bool(encoding.pack)}
    with storage_errors(folder), draft_of(folder) as draft:
        make_private_dir(draft)
        for name, part in (("training", found[:training]), ("validation", found[training:])):
            facts[name] = _save(part, draft / name, encoding.pack)
        write_json_atomic(draft / "facts.json", facts)
        if read_facts(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)  # somebody took files out of it
        put_in_place(draft, folder)
    return facts


def _save(part: list[dict[str, Any]], folder: Path, pack: int) -> int:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    if not part:
        return 0
    table = Dataset.from_dict({name: [row[name] for row in part] for name in part[0]})
    if pack:
        from trl.data_utils import pack_dataset

        table = pack_dataset(table, pack, "bfd", {"desc": None})
    table.save_to_disk(folder)
    return len(table)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What :func:`write_rows` has said of a folder; None where there is none."""
    try:
        return dict(json.loads((folder / "facts.json").read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def find_rows(runs_dir: Path, key: str) -> Path | None:
    """The folder that ``hpctrain data prepare`` has made for a run's key."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((runs_dir / FOLDER / f"for-{key[:16]}.json").read_bytes())
        folder = runs_dir / FOLDER / f"rows-{record['rows']}"
        if record["key"] == key and read_facts(folder) is not None:
            return folder
    return None


def sentence(facts: dict[str, Any], how: str) -> str:
    """What is in a folder, for people."""
    what = several(facts["training"], "sequence") if facts["packed"] else several(facts["training"], "row")
    text = f"{what} to train on, {facts['validation']} to measure on, {how}"
    return text + (f"; {several(facts['left_out'], 'row')} too long and left out" if facts["left_out"] else "")
