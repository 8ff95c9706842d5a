"""Rows tokenised and packed before the job that trains on them (service)."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.data.identity import data_hashes
from hpctrain.errors import RecipeError
from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.hashing import CACHE_DIR
from hpctrain.recipe.check_data import PREPARED
from hpctrain.recipe.schema import Recipe
from hpctrain.train.prepared import FOLDER
from hpctrain.train.tune.row_files import Encoding, read_facts, rows_key, write_rows
from hpctrain.train.tune.run import METHODS
from hpctrain.train.tune.tokenizer import load_tokenizer


@dataclass(frozen=True, slots=True)
class PreparedRows:
    """What was prepared.

    Attributes:
        folder: the files.
        facts: number of rows to train on and to measure on, of those left out, and whether they are packed.
        hashes: of the data, see :func:`hpctrain.data.identity.data_hashes`.
        reused: it was there.
    """

    folder: Path
    facts: dict[str, Any]
    hashes: dict[str, Any]
    reused: bool


def encoding_of(recipe: Recipe, tokenizer: Any) -> Encoding:
    """How the rows of a recipe become tokens.

    Raises:
        RecipeError: its method has no such rows.
    """
    if recipe.data is None or recipe.method not in PREPARED or recipe.method not in METHODS:
        raise RecipeError(f"method '{recipe.method}' has no rows that are tokens before it begins", where="method")
    module = importlib.import_module(METHODS[recipe.method])
    found: Encoding = module.encoding(recipe, recipe.data, tokenizer)
    return found


def prepare_rows(recipe: Recipe, runs_dir: Path, progress: Callable[[int], None]) -> PreparedRows:
    """Tokenise (and pack) a recipe's rows into the folder that all runs share, or find them there.

    Args:
        progress: told the number of rows now and then.

    Raises:
        RecipeError: a row is not what it should be (with ``file:line``), or the method has no such rows.
        NotFoundError: data or tokenizer are not there.
        StorageError: the folder cannot be written.
    """
    tokenizer = load_tokenizer(recipe)
    encoding = encoding_of(recipe, tokenizer)
    data, method = recipe.data, recipe.method or ""
    assert data is not None  # noqa: S101 - encoding_of has seen to it
    shared = make_private_dir(runs_dir / FOLDER)
    hashes = data_hashes(data, known=runs_dir / CACHE_DIR)
    key = rows_key(method, data, tokenizer, encoding)
    # What is on the hub is not here to be hashed: then its name counts, as for a run.
    content = (rows_key(method, data, tokenizer, encoding, contents=hashes["sha256"]) if hashes["sha256"] else key)[:16]
    folder = shared / f"rows-{content}"
    facts = read_facts(folder)
    reused = facts is not None
    if facts is None:
        facts = write_rows(method, data, encoding, folder, progress)
    write_json_atomic(shared / f"for-{key[:16]}.json", {"rows": content, "key": key}, durable=False)
    return PreparedRows(folder, facts, hashes, reused)
