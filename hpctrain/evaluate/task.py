"""What a suite is given, and what it hands back (service: it holds adapters)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hpctrain.errors import RecipeError
from hpctrain.evaluate.language_model import LanguageModel, Progress
from hpctrain.recipe.schema_method import Judge, Suite

Record = dict[str, Any]
"""What was found for one row: plain JSON, with ``row``, its number in the set."""
Columns = Mapping[str, Sequence[Any]]
Scorer = Callable[[Sequence[Any], Sequence[str], Columns, Sequence[int]], Mapping[str, Sequence[float | None]]]
"""Rewards of answers: prompts, answers, the rows' other keys and the answers' lengths in tokens in; by name of the reward
one number per answer out."""
T = TypeVar("T")


class StoppedError(Exception):
    """Somebody has asked the job to stop; what is measured half is not told."""


@dataclass(frozen=True, slots=True)
class SetRow:
    """A row of a suite's set.

    Attributes:
        number: in the set, from 0.
        values: as :mod:`hpctrain.data.read` gives them.
        where: ``file:line``, for messages.
    """

    number: int
    values: Mapping[str, Any]
    where: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One suite on one model, for the rows of one rank.

    Attributes:
        rows: of this rank.
        text_field: key of texts.
        scorer: the run's rewards, None where there are none.
        weights: of the rewards, by name.
        judge: of the recipe, or None.
        first: records of the model to compare with, by row; empty while that one is measured.
        progress: told of done rows; raises :class:`StoppedError` when the job is to stop.
        say: told sentences for people.
        ranks: that measure this suite at once, and so ask its judge at once.
    """

    suite: Suite
    model: LanguageModel
    rows: Sequence[SetRow]
    text_field: str = "text"
    scorer: Scorer | None = None
    weights: Mapping[str, float] | None = None
    judge: Judge | None = None
    first: Mapping[int, Record] | None = None
    progress: Progress = lambda _done, _of: None
    say: Callable[[str], None] = lambda _text: None
    ranks: int = 1


def of_row(row: SetRow, ask: Callable[..., T], *more: Any) -> T:
    """Ask for a part of a row.

    Raises:
        RecipeError: the row has no such part, with its place.
    """
    try:
        return ask(row.values, *more)
    except ValueError as error:
        raise RecipeError(f"this row {error}" if str(error).startswith("has") else str(error), where=row.where,
                          hint="docs/evaluate.md says what each suite needs of a row") from None
