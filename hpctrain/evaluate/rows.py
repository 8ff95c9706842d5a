"""The rows that a suite is measured on (service over the readers of data sets)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import islice

from hpctrain.data.read import rows, validation_rows
from hpctrain.errors import RecipeError
from hpctrain.evaluate.task import SetRow
from hpctrain.recipe.schema import Data, Recipe
from hpctrain.recipe.schema_method import Suite

HeldOut = Callable[[], Sequence[str]]
"""Texts that a run on text has kept out of training; only its own tokens say where they begin."""
TEXT_METHODS = ("pretrain", "cpt")


def rows_of(suite: Suite, recipe: Recipe | None, held_out: HeldOut | None = None) -> list[SetRow]:
    """The rows of one suite: its own files, else what the run has kept out of training.

    Args:
        recipe: of the run; None where only a model is known.
        held_out: for runs on text.

    Raises:
        RecipeError: a row is broken, or there are none.
        NotFoundError: a file is missing.
    """
    if suite.kind == "harness":
        return []
    if suite.paths:
        format_ = "preference" if suite.kind == "preference" else "auto"
        field = recipe.data.text_field if recipe is not None and recipe.data is not None else "text"
        data = Data.model_validate({"source": "files", "paths": suite.paths, "format": format_, "text_field": field})
        found = [SetRow(number, row.values, row.where) for number, row in enumerate(islice(rows(data), suite.limit))]
    else:
        found = _held_out(suite, recipe, held_out)[:suite.limit]
    if not found and suite.kind != "function":
        raise RecipeError("there are no rows to measure on", where=", ".join(suite.paths) or "data")
    return found


def fingerprint(found: Sequence[SetRow]) -> str:
    """Short hash of the contents of rows."""
    digest = hashlib.sha256()
    for row in found:
        digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _held_out(suite: Suite, recipe: Recipe | None, held_out: HeldOut | None) -> list[SetRow]:
    if recipe is None or recipe.data is None:
        if suite.kind == "function":
            return []
        raise RecipeError(f"suite '{suite.name or suite.kind}' has no rows to measure on", where="paths",
                          hint=f"name files: --suite {suite.kind}:FILE; a run brings its own held-out rows")
    data = recipe.data
    if not data.validation_fraction:
        if suite.kind == "function":
            return []
        raise RecipeError("the run has kept no rows out of training to measure on", where="data.validation_fraction",
                          hint=f"name files: --suite {suite.kind}:FILE, or set data.validation_fraction and train again")
    if recipe.method in TEXT_METHODS:
        if held_out is None:
            raise RecipeError("what this run kept out of training is known to its own trainer only", where="data",
                              hint="name files: --suite perplexity:FILE")
        texts = held_out()
        return [SetRow(number, {data.text_field: text}, f"held-out block {number}") for number, text in enumerate(texts)]
    every = list(rows(data, recipe.method or ""))
    kept = len(every) - validation_rows(len(every), data.validation_fraction)
    return [SetRow(number, row.values, row.where) for number, row in enumerate(every[kept:])]
