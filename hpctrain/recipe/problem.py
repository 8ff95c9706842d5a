"""What is wrong with a recipe, collected so that one run tells everything (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.errors import RecipeError
from hpctrain.recipe.node import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: the key it is about; empty for the recipe as a whole.
        message: what is wrong and what was expected.
        where: ``file:line``, ``--set KEY`` or a settings file; "" until it is looked up.
        hint: what to do about it, where that is not plain.
    """

    path: Path
    message: str
    where: str = ""
    hint: str = ""


OVERRIDE_HINT = "correct the file, or override a value with --set KEY=VALUE; 'hpctrain recipes schema' explains every key"


def raise_problems(problems: Sequence[Problem], source: str) -> None:
    """Raise one error that lists all problems; nothing happens when there are none.

    Raises:
        RecipeError: with one line per problem, each ``where: key: what is wrong``.
    """
    if not problems:
        return
    hint = next((problem.hint for problem in problems if problem.hint), OVERRIDE_HINT)
    if len(problems) == 1:
        raise RecipeError(_sentence(problems[0]), where=_one_line(problems[0].where or source), hint=hint)
    lines = [f"  {_one_line(problem.where or source)}: {_sentence(problem)}" for problem in problems]
    raise RecipeError("\n".join([f"{len(problems)} problems", *lines]), where=_one_line(source), hint=hint)


def dotted(path: Path) -> str:
    """A path as people write it: ``data.paths[0]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return _one_line(text)


def shown(value: object, limit: int = 60) -> str:
    """A value quoted in a message, on one line and not too long."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = {None: "null", True: "true", False: "false"}.get(value) if value is None or isinstance(value, bool) else None
    text = text or (f"{value:g}" if isinstance(value, float) else repr(value))
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _sentence(problem: Problem) -> str:
    key = dotted(problem.path)
    told = not key or problem.where == f"--set {key}"  # the option itself names the key
    return problem.message if told else f"{key}: {problem.message}"


def _one_line(text: str) -> str:
    """Names from files and command lines must not break a line or move a terminal's cursor."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
