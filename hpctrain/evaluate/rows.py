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


class RowSource:
    """Gives each suite its rows. What the run has kept out of training is read once, however many suites are measured on it.

    Args:
        recipe: of the run; None where only a model is known.
        held_out: for runs on text.
    """

    def __init__(self, recipe: Recipe | None, held_out: HeldOut | None = None) -> None:
        self._recipe, self._texts = recipe, held_out
        self._kept: list[SetRow] | None = None

    def rows_of(self, suite: Suite) -> list[SetRow]:
        """The rows of one suite: its own files, else what the run has kept out of training.

        Raises:
            RecipeError: a row is broken, or there are none.
            NotFoundError: a file is missing.
        """
        if suite.kind == "harness":
            return []
        if suite.paths:
            format_ = "preference" if suite.kind == "preference" else "auto"
            recipe = self._recipe
            field = recipe.data.text_field if recipe is not None and recipe.data is not None else "text"
            data = Data.model_validate({"source": "files", "paths": suite.paths, "format": format_, "text_field": field})
            found = [SetRow(number, row.values, row.where) for number, row in enumerate(islice(rows(data), suite.limit))]
        else:
            found = self._held_out(suite)[:suite.limit]
        if not found and suite.kind != "function":
            raise RecipeError("there are no rows to measure on", where=", ".join(suite.paths) or "data")
        return found

    def _held_out(self, suite: Suite) -> list[SetRow]:
        recipe = self._recipe
        if recipe is None or recipe.data is None:
            if suite.kind == "function":
                return []
            raise RecipeError(f"suite '{suite.name or suite.kind}' has no rows to measure on", where="paths",
                              hint=f"name files: --suite {suite.kind}:FILE; a run brings its own held-out rows")
        data = recipe.data
        if not data.validation_fraction:
            if suite.kind == "function":
                return []
            raise RecipeError(
                "the run has kept no rows out of training to measure on", where="data.validation_fraction",
                hint=f"name files: --suite {suite.kind}:FILE, or set data.validation_fraction and train again")
        if self._kept is None:
            self._kept = self._read(data, recipe.method or "")
        return self._kept

    def _read(self, data: Data, method: str) -> list[SetRow]:
        if method in TEXT_METHODS:
            if self._texts is None:
                raise RecipeError("what this run kept out of training is known to its own trainer only", where="data",
                                  hint="name files: --suite perplexity:FILE")
            return [SetRow(number, {data.text_field: text}, f"held-out block {number}")
                    for number, text in enumerate(self._texts())]
        every = list(rows(data, method))
        kept = len(every) - validation_rows(len(every), data.validation_fraction)
        return [SetRow(number, row.values, row.where) for number, row in enumerate(every[kept:])]


def fingerprint(found: Sequence[SetRow]) -> str:
    """Short hash of the contents of rows."""
    digest = hashlib.sha256()
    for row in found:
        digest.update(json.dumps(row.values, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]
