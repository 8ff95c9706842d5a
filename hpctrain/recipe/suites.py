"""Suites as they are asked for on the command line (pure).

``KIND`` or ``KIND:PART,PART,...``, where a part is ``key=value`` as in a recipe's suite, or a bare word: a file (a task for
``harness``, the function for ``function``).
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError

from hpctrain.errors import UsageError
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import REINFORCED, Judge, Suite

KINDS: tuple[str, ...] = get_args(Suite.model_fields["kind"].annotation)
_LISTS = ("paths", "tasks")
_PLAIN = ("limit", "max_new_tokens", "pairwise", "samples", "temperature")
_BELONGS = {"tasks": "harness", "function": "function", "pairwise": "judge", "match": "accuracy"}
"""The one kind that a key is for."""
_BARE = {"harness": "tasks", "function": "function"}


def parse_suite(text: str) -> Suite:
    """Read one ``--suite``.

    Raises:
        UsageError: it is not one; says what would be.
    """
    kind, _, rest = text.partition(":")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"--suite {text}: there is no suite of kind {kind!r}{guess}", hint=f"kinds: {', '.join(KINDS)}")
    values: dict[str, Any] = {"kind": kind}
    for key, value in _choices(rest, kind):
        if key in _LISTS:
            values.setdefault(key, []).append(value)
        elif key in values:
            raise UsageError(f"--suite {text}: {key!r} is given twice")
        else:
            values[key] = _plain(value) if key in _PLAIN else value
    return _suite(values, text)


def _choices(rest: str, kind: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for part in rest.split(","):
        if not part:
            continue
        key, equals, value = part.partition("=")
        if equals and key in Suite.model_fields and key != "kind":
            found.append((key, value))
        else:
            found.append(("paths" if _has_function(kind, found) else _BARE.get(kind, "paths"), part))
    return found


def _has_function(kind: str, found: Sequence[tuple[str, str]]) -> bool:
    """A function's first bare word is the function, its further ones are files."""
    return kind == "function" and any(key == "function" for key, _ in found)


def _plain(value: str) -> Any:
    """A number or a truth value where it is one."""
    if value in ("true", "false"):
        return value == "true"
    with contextlib.suppress(ValueError):
        return int(value) if value.isdecimal() else float(value)
    return value


def _suite(values: dict[str, Any], text: str) -> Suite:
    try:
        suite = Suite.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"--suite {text}: {_first(error)}") from None
    problem = suite_problem(suite)
    if problem:
        raise UsageError(f"--suite {text}: {problem}")
    return suite


def read_judge(values: Mapping[str, Any]) -> Judge:
    """A judge from options.

    Raises:
        UsageError: it is none; names the value that is wrong.
    """
    try:
        return Judge.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"the judge: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def suite_problem(suite: Suite) -> str:
    """What a suite lacks by itself, "" where it is whole."""
    if suite.kind == "harness" and not suite.tasks:
        return "needs tasks of lm-evaluation-harness, such as tasks=hellaswag"
    if suite.kind == "function" and not suite.function:
        return "needs function, as module:function or file.py:function"
    for key, kind in _BELONGS.items():
        if suite.kind != kind and getattr(suite, key) != Suite.model_fields[key].get_default(call_default_factory=True):
            return f"'{key}' belongs to kind '{kind}', but the kind is '{suite.kind}'"
    if suite.samples > 1 and suite.kind not in ("accuracy", "reward"):
        return f"'samples' belongs to kinds 'accuracy' and 'reward', but the kind is '{suite.kind}'"
    if suite.samples == 1 and suite.temperature != Suite.model_fields["temperature"].default:
        return "'temperature' is that of answers that are drawn: say how many with samples, such as samples=4"
    if suite.kind == "harness" and suite.paths:
        return "'harness' brings its own data; paths have no meaning for it"
    return ""


def usual_suites(recipe: Recipe) -> list[Suite]:
    """What is measured of a run when nobody says: its ``evaluate:``, else what its method is about."""
    if recipe.evaluate is not None:
        return list(recipe.evaluate.suites)
    if recipe.method in ("dpo", "reward"):
        return [Suite(kind="preference")]
    return [Suite(kind="reward" if recipe.method in REINFORCED else "perplexity")]


def unique_names(suites: Sequence[Suite]) -> list[Suite]:
    """The same suites, each with a name of its own: the kind, or its file, with a number where that is taken."""
    taken: set[str] = set()
    found = []
    for suite in suites:
        wanted = suite.name or suite.kind
        name, number = wanted, 1
        while name in taken:
            number += 1
            name = f"{wanted} {number}"
        taken.add(name)
        found.append(suite.model_copy(update={"name": name}))
    return found
