"""Merged values to a :class:`Recipe`, or every problem at once in the user's words (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hpctrain.recipe.node import Node, Path, find, origin_of, to_plain
from hpctrain.recipe.problem import Problem, dotted, raise_problems, shown
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_types import PATTERN_HELP
from hpctrain.recipe.suggest import nearest, unknown_key

_EXPECTED = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number", "bool_type": "true or false",
    "string_type": "text", "list_type": "a list", "dict_type": "a mapping", "model_type": "a section with keys",
    "model_attributes_type": "a section with keys", "tuple_type": "a list of two numbers",
}
_BOUNDS = {
    "greater_than": ("gt", "must be more than"), "greater_than_equal": ("ge", "must be at least"),
    "less_than": ("lt", "must be less than"), "less_than_equal": ("le", "must be at most"),
}


def validate(node: Node, source: str) -> Recipe:
    """Check the values one by one against the schema.

    Args:
        node: the merged layers.
        source: name of the recipe, for problems without a line.

    Raises:
        RecipeError: lists all problems, each with where it was written.
    """
    values = to_plain(node)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        if not _take_as_written(values, node, error):
            raise_problems(problems_of(error, node, source), source)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise_problems(problems_of(error, node, source), source)
    raise AssertionError("unreachable")


def problems_of(error: ValidationError, node: Node, source: str) -> list[Problem]:
    """Translate pydantic's errors, in the order of the file."""
    problems = []
    for item in error.errors(include_url=False):
        path = _path(item["loc"])
        where = source if node.origin == "default" else origin_of(node, path)
        if item["type"] == "missing" and len(path) == 1:
            where = source
        problems.append(Problem(path, _message(dict(item), path), where))
    return sorted(problems, key=_line_order)


def _take_as_written(values: Any, node: Node, error: ValidationError) -> bool:
    """Where text is wanted and a plain ``1e-4`` or ``true`` was written, put in exactly those characters."""
    changed = False
    for item in error.errors(include_url=False):
        path = _path(item["loc"])
        found = find(node, path)
        if item["type"] == "string_type" and found is not None and found.written is not None:
            target = values
            for part in path[:-1]:
                target = target[part]
            target[path[-1]] = found.written
            changed = True
    return changed


def _message(item: Mapping[str, Any], path: Path) -> str:
    kind, got, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(path)
    if kind == "missing":
        return "is required, and nothing sets it"
    if kind == "literal_error":
        return _choice(str(context.get("expected", "")), got)
    if kind in _EXPECTED:
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(got, int | float) else ""
        return f"expected {_EXPECTED[kind]}, got {shown(got)}{quotes}"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {context.get(name)}, got {shown(got)}"
    if kind == "value_error":
        return str(context.get("error", item["msg"]))
    if kind == "string_pattern_mismatch":
        return f"{shown(got)} is not allowed: {PATTERN_HELP.get(str(context.get('pattern')), item['msg'])}"
    return f"{item['msg']}, got {shown(got)}"


def _choice(expected: str, got: Any) -> str:
    words = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    near = nearest(got, words) if isinstance(got, str) else None
    return f"expected {expected}, got {shown(got)}" + (f"; did you mean '{near}'?" if near else "")


def _path(loc: tuple[int | str, ...]) -> Path:
    """Pydantic's location without its own marks (``[key]`` for a bad key of a mapping)."""
    return tuple(part for part in loc if part != "[key]")


def _line_order(problem: Problem) -> tuple[str, int, str]:
    file, _, line = problem.where.rpartition(":")
    return (file, int(line), dotted(problem.path)) if line.isdigit() else (problem.where, 0, dotted(problem.path))
