"""A part of JSON Schema, enough for answers of a model, with nothing skipped in silence (pure).

Known: type, enum, const, properties, required, additionalProperties, minProperties, maxProperties, items, minItems,
maxItems, uniqueItems, minLength, maxLength, pattern, minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf,
anyOf, allOf, oneOf, not, and ``$ref`` to ``$defs`` or ``definitions`` of the same schema.
:func:`unsupported` names anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

_NOTES = {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "$defs", "definitions",
          "format"}
"""Keywords that refuse nothing. ``format`` is one by the standard's own default."""
_TYPES = {"string", "number", "integer", "boolean", "null", "object", "array"}
_DEEPEST = 64
"""References and values nested deeper than this count as wrong, so that a schema that refers to itself ends."""


def unsupported(schema: Any, place: str = "$") -> str:
    """What in a schema is not understood here, with its place; "" when all of it is."""
    return next(_unsupported(schema, schema, place), "")


def mismatch(value: Any, schema: Any) -> str | None:
    """Why a value does not fit, in a few words with the place; None when it fits."""
    return next(_mismatch(value, schema, schema, "$", 0), None)


def _unsupported(schema: Any, root: Any, place: str) -> Iterator[str]:
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"{place}: a schema is a mapping, or true or false"
        return
    for key, wanted in schema.items():
        if key not in _CHECKS and key not in _NOTES and key not in ("type", "$ref"):
            yield f"{place}: the keyword {key!r} is not supported"
        elif key == "type":
            names = wanted if isinstance(wanted, list) else [wanted]
            yield from (f"{place}.type: {name!r} is no type of JSON" for name in names if name not in _TYPES)
        elif key == "$ref" and _target(wanted, root) is None:
            followed = "only '#/$defs/NAME' and '#/definitions/NAME' are followed"
            yield f"{place}.$ref: {wanted!r} is not in this schema; {followed}"
        elif key == "pattern":
            yield from _bad_pattern(wanted, place)
    for key, below in _children(schema):
        yield from _unsupported(below, root, f"{place}.{key}")


def _bad_pattern(pattern: Any, place: str) -> Iterator[str]:
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        yield f"{place}.pattern: {error}"


def _children(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in ("properties", "$defs", "definitions"):
        group = schema.get(key)
        if isinstance(group, Mapping):
            yield from ((f"{key}.{name}", below) for name, below in group.items())
    for key in ("items", "additionalProperties", "not"):
        if key in schema:
            yield key, schema[key]
    for key in ("anyOf", "allOf", "oneOf"):
        options = schema.get(key)
        if isinstance(options, list):
            yield from ((f"{key}[{index}]", below) for index, below in enumerate(options))


def _target(reference: Any, root: Any) -> Any:
    parts = str(reference).split("/")
    if len(parts) != 3 or parts[0] != "#" or parts[1] not in ("$defs", "definitions") or not isinstance(root, Mapping):
        return None
    group = root.get(parts[1])
    return group.get(parts[2].replace("~1", "/").replace("~0", "~")) if isinstance(group, Mapping) else None


def _mismatch(value: Any, schema: Any, root: Any, place: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        yield f"{place}: nested deeper than {_DEEPEST}"
        return
    if schema is True or (schema is not False and not isinstance(schema, Mapping)):
        return
    if schema is False:
        yield f"{place}: nothing is allowed here"
        return
    if "$ref" in schema:
        yield from _mismatch(value, _target(schema["$ref"], root), root, place, depth + 1)
    if "type" in schema and not _is_of(value, schema["type"]):
        yield f"{place}: not of type {schema['type']}"
        return
    for key, wanted in schema.items():
        check = _CHECKS.get(key)
        if check is not None:
            yield from check(value, wanted, _Here(schema, root, place, depth + 1))


class _Here:
    """Where a check is: the schema around its keyword, the whole schema, the place in the value."""

    def __init__(self, schema: Mapping[str, Any], root: Any, place: str, depth: int) -> None:
        self.schema, self.root, self.place, self.depth = schema, root, place, depth

    def below(self, value: Any, schema: Any, step: str = "") -> Iterator[str]:
        """What is wrong with a part of the value."""
        return _mismatch(value, schema, self.root, self.place + step, self.depth)

    def fits(self, value: Any, schema: Any) -> bool:
        """Whether nothing is."""
        return next(self.below(value, schema), None) is None


_Check = Callable[[Any, Any, _Here], Iterator[str]]


def _is_of(value: Any, wanted: Any) -> bool:
    return any(_is_one(value, name) for name in (wanted if isinstance(wanted, list) else [wanted]))


def _is_one(value: Any, name: str) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "string": isinstance(value, str), "number": number, "boolean": isinstance(value, bool), "null": value is None,
        "integer": number and float(value).is_integer() if isinstance(value, float) else number,
        "object": isinstance(value, dict), "array": isinstance(value, list),
    }.get(name, False)


def _same(one: Any, other: Any) -> bool:
    """JSON's equality: 1 and 1.0 are one number, 1 and true are not one value."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, str) or isinstance(other, str):
        return type(one) is type(other) and bool(one == other)
    return bool(one == other)


def _number_check(holds: Callable[[Any, Any], bool], words: str) -> _Check:
    def check(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
        if _is_one(value, "number") and not holds(value, wanted):
            yield f"{here.place}: {value} is {words} {wanted}"
    return check


def _size_check(kind: type, least: bool) -> _Check:
    def check(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
        if isinstance(value, kind) and (len(value) < wanted if least else len(value) > wanted):  # type: ignore[arg-type]
            yield f"{here.place}: {'fewer' if least else 'more'} than {wanted}"
    return check


def _multiple(value: Any, wanted: Any) -> bool:
    return Fraction(str(value)) % Fraction(str(wanted)) == 0


def _enum(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if not any(_same(value, item) for item in wanted):
        yield f"{here.place}: none of {json.dumps(wanted)}"


def _const(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if not _same(value, wanted):
        yield f"{here.place}: not {json.dumps(wanted)}"


def _properties(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if isinstance(value, dict):
        for name, below in wanted.items():
            if name in value:
                yield from here.below(value[name], below, f".{name}")


def _additional(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if isinstance(value, dict):
        for name in value:
            if name not in here.schema.get("properties", {}):
                yield from here.below(value[name], wanted, f".{name}")


def _required(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{here.place}: {name!r} is missing" for name in wanted if name not in value)


def _items(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from here.below(item, wanted, f"[{index}]")


def _unique(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    several = wanted and isinstance(value, list)
    if several and any(_same(item, other) for index, item in enumerate(value) for other in value[:index]):
        yield f"{here.place}: the same item twice"


def _pattern(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if isinstance(value, str) and re.search(wanted, value) is None:
        yield f"{here.place}: {wanted!r} is not found"


def _any_of(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if not any(here.fits(value, option) for option in wanted):
        yield f"{here.place}: fits none of the {len(wanted)} options"


def _all_of(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    for option in wanted:
        yield from here.below(value, option)


def _one_of(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    count = sum(here.fits(value, option) for option in wanted)
    if count != 1:
        yield f"{here.place}: fits {count} of the {len(wanted)} options, not one"


def _not(value: Any, wanted: Any, here: _Here) -> Iterator[str]:
    if here.fits(value, wanted):
        yield f"{here.place}: fits what it must not"


_CHECKS: dict[str, _Check] = {
    "enum": _enum, "const": _const, "properties": _properties, "additionalProperties": _additional, "required": _required,
    "minProperties": _size_check(dict, True), "maxProperties": _size_check(dict, False), "items": _items,
    "minItems": _size_check(list, True), "maxItems": _size_check(list, False), "uniqueItems": _unique,
    "minLength": _size_check(str, True), "maxLength": _size_check(str, False), "pattern": _pattern,
    "minimum": _number_check(lambda value, wanted: bool(value >= wanted), "less than"),
    "maximum": _number_check(lambda value, wanted: bool(value <= wanted), "more than"),
    "exclusiveMinimum": _number_check(lambda value, wanted: bool(value > wanted), "not more than"),
    "exclusiveMaximum": _number_check(lambda value, wanted: bool(value < wanted), "not less than"),
    "multipleOf": _number_check(_multiple, "no multiple of"), "anyOf": _any_of, "allOf": _all_of,
    "oneOf": _one_of, "not": _not,
}
