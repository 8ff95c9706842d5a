"""Data tokenised before the job that trains on it, shared by all runs of a user (adapter over the file system).

``<runs directory>/prepared-data/`` holds token files named by a hash of the *contents* and the tokenizer, so that the same
text is tokenised once, wherever its files lie. ``for-<key>.json`` leads there from the key that a run computes at its
start, which is made of stamps (path, size, time) and costs nothing: a run never reads its text to find out that it is known.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hpctrain.data.identity import data_hashes
from hpctrain.errors import RecipeError
from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.hashing import CACHE_DIR
from hpctrain.recipe.schema import Data, Recipe
from hpctrain.train import text, tokens
from hpctrain.train.tokenizers import Tokenizer, build_tokenizer
from hpctrain.train.tokens import TokenFile

FOLDER = "prepared-data"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was prepared.

    Attributes:
        file: the tokens; ``file.reused`` if nothing was left to do.
        hashes: of the data, see :func:`hpctrain.data.identity.data_hashes`.
        samples: blocks of ``data.sequence_length`` that they fill.
    """

    file: TokenFile
    hashes: dict[str, Any]
    samples: int


def find_prepared(runs_dir: Path, key: str) -> TokenFile | None:
    """The tokens for the key of a run, if they were prepared and are whole."""
    folder = runs_dir / FOLDER
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        record = json.loads((folder / f"for-{key}.json").read_bytes())
        found = tokens.find(folder, str(record["tokens"]))
        return replace(found, fingerprint=key) if found is not None else None
    return None


def tokens_of(data: Data, tokenizer: Tokenizer, cache: Path) -> tuple[str, TokenFile | None]:
    """The key of a run's tokens, and where they are: in its own cache, or where ``hpctrain data prepare`` has put them.

    Args:
        cache: of the run directory.

    Raises:
        NotFoundError, RecipeError: the data's files are not there.
    """
    key = tokens.fingerprint(text.identity(data), tokenizer)
    return key, tokens.find(cache, key) or find_prepared(cache.parent.parent, key)


def prepare_text(
    recipe: Recipe, runs_dir: Path, *, reading: Callable[[int], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Tokenise a recipe's text into the shared folder, or find it there.

    Args:
        reading: told of bytes that were read for their hash.
        progress: told of documents and tokens so far.

    Raises:
        RecipeError: the recipe trains on something else than text, or a row is bad.
        NotFoundError: files or tokenizer are not there.
        StorageError: the folder cannot be written.
    """
    if recipe.data is None or recipe.method not in ("pretrain", "cpt"):
        raise RecipeError(
            f"this is for text (pretrain, cpt), and the method is '{recipe.method}'", where="method",
            hint="hpctrain.train.tune.prepare has it for rows",
        )
    folder = make_private_dir(runs_dir / FOLDER)
    tokenizer = tokenizer_of(recipe)
    hashes = data_hashes(recipe.data, known=runs_dir / CACHE_DIR, progress=reading)
    stamps = text.identity(recipe.data)
    content = tokens.fingerprint(["contents", hashes["sha256"]] if hashes["sha256"] else stamps, tokenizer)
    data = recipe.data
    file = tokens.prepare(folder, content, lambda: text.documents(data), tokenizer, progress)
    write_json_atomic(folder / f"for-{tokens.fingerprint(stamps, tokenizer)}.json", {"tokens": content}, durable=False)
    return Prepared(file, hashes, max(0, (file.tokens - 1) // data.sequence_length))


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """The tokenizer that a recipe trains text with.

    Raises:
        NotFoundError, RecipeError: it cannot be loaded or used.
    """
    return build_tokenizer(recipe.tokenizer, recipe.model.path if recipe.model and recipe.method == "cpt" else None)
