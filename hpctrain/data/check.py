"""Looks at the data before a job is queued, and at all of it on demand (service over the readers)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from hpctrain.data.files import HINT, BadRow, Row
from hpctrain.data.read import resolve_format, scan, validation_rows
from hpctrain.errors import MissingDependencyError, RecipeError
from hpctrain.recipe.chat_template import ChatTemplate, chat_template
from hpctrain.recipe.rewards import NEEDS_FIELD
from hpctrain.recipe.schema import Data, Recipe
from hpctrain.recipe.schema_method import REINFORCED

LOOK_AT = 1000
"""Rows that are looked at before a submission, shared among the files; of more files the first so many, one row each."""
LISTED = 20
"""Bad rows that are kept; the others are counted."""


@dataclass(slots=True)
class Outcome:
    """What was found in a set.

    Attributes:
        format: what its rows are.
        rows, bad_rows: how many there are, and how many of them cannot be used.
        validation: rows that are kept out of training.
        characters: of all text in the good rows.
        longest: characters of the longest row, and its place.
        problems: the first bad rows.
        notes: sentences about what could not be looked at.
    """

    format: str = ""
    rows: int = 0
    bad_rows: int = 0
    validation: int = 0
    characters: int = 0
    longest: tuple[int, str] = (0, "")
    problems: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``-o json``."""
        return {
            "format": self.format, "rows": self.rows, "bad_rows": self.bad_rows, "validation_rows": self.validation,
            "characters": self.characters, "longest": {"characters": self.longest[0], "where": self.longest[1]},
            "problems": [{"where": bad.where, "message": bad.message} for bad in self.problems], "notes": self.notes,
        }


def needed_fields(recipe: Recipe) -> dict[str, str]:
    """Keys that every row must have beside its format's, and what needs them.

    Rewards beside another method than reinforcement are a suite's, and ask that of the run's rows only if it has none of
    its own.
    """
    suites = recipe.evaluate.suites if recipe.evaluate is not None else ()
    if recipe.method not in REINFORCED and not any(suite.kind == "reward" and not suite.paths for suite in suites):
        return {}
    comparing = [reward for reward in recipe.rewards if reward.kind in NEEDS_FIELD]
    return {reward.field: f"reward '{reward.name or reward.kind}'" for reward in comparing}


def check_all(
    data: Data, method: str = "", *, needed: Mapping[str, str] | None = None, template: ChatTemplate | None = None,
    per_file: int | None = None, at_most: int | None = None,
) -> Outcome:
    """Look at every row.

    Args:
        method: what it is for; "" for any.
        needed: from :func:`needed_fields`.
        template: what conversations will be written with, where it is known.
        per_file: look at the first so many of each file only.
        at_most: look at no more than so many in all.

    Raises:
        RecipeError: a whole file is not what its name says, or the method cannot learn from the format.
        NotFoundError, MissingDependencyError: as :func:`hpctrain.data.read.rows`.
    """
    found = Outcome(resolve_format(data, method))
    for item in islice(scan(data, found.format, per_file=per_file), at_most):
        found.rows += 1
        bad = item if isinstance(item, BadRow) else _lacking(item, needed or {}) or _unwritten(item, template)
        if bad is not None:
            found.bad_rows += 1
            if len(found.problems) < LISTED:
                found.problems.append(bad)
        elif isinstance(item, Row):
            size = _characters(item.values)
            found.characters += size
            found.longest = max(found.longest, (size, item.where), key=lambda pair: pair[0])
    found.validation = validation_rows(found.rows, data.validation_fraction)
    return found


def check_before_submission(recipe: Recipe) -> list[str]:
    """Read the first rows of each file of a recipe's data; return sentences about what could not be looked at.

    A hub id is not loaded: that may take minutes and a network. Sources that are made are right by construction.

    Raises:
        RecipeError: at the first bad row, with ``file:line`` and what was expected.
        NotFoundError: a file is not there.
    """
    data = recipe.data
    if data is None or recipe.method is None or data.source not in ("files", "huggingface"):
        return []
    if data.source == "huggingface" and not str(data.name).startswith("/"):
        return [f"the data set {data.name} is loaded and checked when the job starts; 'hpctrain data validate' does it now"]
    from hpctrain.data.identity import source_files

    per_file = LOOK_AT
    if data.source == "files":
        per_file = max(1, LOOK_AT // max(1, len(source_files(data))))
    else:
        data = data.model_copy(update={"mode": "stream"})  # without a copy of the whole directory in the cache
    try:
        found = check_all(data, recipe.method, needed=needed_fields(recipe), template=chat_template(recipe),
                          per_file=per_file, at_most=LOOK_AT)
    except MissingDependencyError as error:
        return [f"the data was not checked: {error.message}"]
    if found.problems:
        raise found.problems[0].error()
    if not found.rows:
        raise RecipeError("the data holds no rows", where="data")
    return []


def require_good(found: Outcome, where: str = "data") -> None:
    """Raise the bad row, or how many there are.

    Args:
        where: what was looked at, for messages.

    Raises:
        RecipeError: there is one, or there are no rows.
    """
    if not found.rows:
        raise RecipeError("the data holds no rows", where=where, hint="look at its files: they are empty")
    if found.bad_rows == 1:
        bad = found.problems[0]
        raise RecipeError(bad.message, where=bad.where, hint=bad.hint or HINT)
    if found.bad_rows:
        listed = f"; the first {len(found.problems)} are listed" if found.bad_rows > len(found.problems) else ""
        hint = found.problems[0].hint or "docs/data.md shows what rows look like"
        raise RecipeError(f"{found.bad_rows:,} of {found.rows:,} rows are bad{listed}", where=where, hint=hint)


def _lacking(row: Row, needed: Mapping[str, str]) -> BadRow | None:
    for name, why in needed.items():
        if row.values.get(name) is None:
            keys = ", ".join(map(str, list(row.values)[:8]))
            return BadRow(f"has no {name!r}, which {why} compares with (its keys: {keys})", row.where)
    return None


def _unwritten(row: Row, template: ChatTemplate | None) -> BadRow | None:
    problem = template.row_problem(row.values) if template is not None else None
    return BadRow(problem, row.where, "set chat.template to a jinja file that writes such rows") if problem else None


def _characters(value: Any) -> int:
    """Of all text in a value, however deep; keys and roles do not count."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_characters(item) for key, item in value.items() if key != "role")
    return sum(_characters(item) for item in value) if isinstance(value, list) else 0
