"""The resolved recipe as YAML that says where each value came from, and can be submitted again (pure)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from hpctrain.recipe.node import DEFAULT_ORIGIN, Path
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.units import format_bytes, format_duration

_WORD = re.compile(r"^[A-Za-z_][A-Za-z0-9_./-]*$")
_RESERVED = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_BYTES = {("resources", "gpu_memory"), ("resources", "memory_per_node")}
_SECONDS = {
    ("resources", "time_limit"), ("checkpoint", "every"), ("checkpoint", "local", "every"),
    ("checkpoint", "object", "every"), ("checkpoint", "mean_time_to_failure"), ("checkpoint", "flush_limit"),
    ("resilience", "stop_before_limit"),
}
_COMMENT_COLUMN = 56


def dump(recipe: Recipe, origins: Mapping[str, str], heading: str = "") -> str:
    """The whole recipe, defaults included.

    Args:
        origins: dotted key to place, for keys that somebody set; all others are defaults.
        heading: comment on top.
    """
    lines = [f"# {_printable(line)}" for line in heading.splitlines()]
    lines += _lines(recipe.model_dump(), (), 0, origins)
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, Any], path: Path, depth: int, origins: Mapping[str, str]) -> Iterator[str]:
    for key, value in values.items():
        here = (*path, key)
        yield from _entry(f"{'  ' * depth}{scalar(key)}:", value, here, depth, origins)


def _entry(start: str, value: Any, path: Path, depth: int, origins: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield start
        yield from _lines(value, path, depth + 1, origins)
    elif isinstance(value, list | tuple) and value:
        yield start
        for index, item in enumerate(value):
            bullet = f"{'  ' * (depth + 1)}-"
            if isinstance(item, Mapping | list | tuple) and item:
                yield _commented(f"{bullet} {_flow(item)}", (*path, index), item, origins)
            else:
                yield _commented(f"{bullet} {scalar(item)}", (*path, index), item, origins)
    else:
        yield _commented(f"{start} {scalar(value)}", path, value, origins)


def _commented(text: str, path: Path, value: Any, origins: Mapping[str, str]) -> str:
    origin = _origin(path, origins)
    unit = ""
    if path in _BYTES and value:
        unit = f" ({format_bytes(value)})"
    elif path in _SECONDS and isinstance(value, int):
        unit = f" ({format_duration(value)})"
    return f"{text:<{_COMMENT_COLUMN}}  # {_printable(origin)}{unit}"


def _origin(path: Path, origins: Mapping[str, str]) -> str:
    for length in range(len(path), 0, -1):
        found = origins.get(dotted(path[:length]))
        if found:
            return found
    return DEFAULT_ORIGIN


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """A scalar that YAML 1.1 and 1.2 readers both take for the same value."""
    if value is None or isinstance(value, bool | int):
        return json.dumps(value)
    if isinstance(value, float) and math.isfinite(value):
        mantissa, sign, exponent = repr(value).partition("e")
        if sign and "." not in mantissa:
            mantissa += ".0"
        exponent = exponent if exponent.startswith(("-", "+")) or not sign else "+" + exponent
        return mantissa + sign + exponent
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    text = str(value)
    plain = _WORD.match(text) and text.lower() not in _RESERVED
    return text if plain else '"' + "".join(map(_quoted, text)) + '"'


def _quoted(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char == "\n":
        return "\\n"
    if char == "\t":
        return "\\t"
    if char.isprintable() and char != "\ufeff":
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
