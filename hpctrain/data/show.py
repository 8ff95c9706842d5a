"""Rows as people read them (pure)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LONGEST = 600
"""Characters of one text that are shown."""


def lines_of_row(values: Mapping[str, Any], where: str) -> Iterator[str]:
    """One row: its place, then each key with its text indented, conversations speaker by speaker."""
    yield where
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) and "role" in item for item in value):
            yield f"  {key}"
            for message in value:
                yield from _indented(str(message["role"]), _said(message), 4)
        else:
            yield from _indented(key, _as_text(value), 2)


def lines_of_parts(parts: Iterable[tuple[str, str]], where: str) -> Iterator[str]:
    """Named pieces of text below a place, in their order."""
    yield where
    for name, text in parts:
        yield from _indented(name, text, 2)


def _said(message: Mapping[str, Any]) -> str:
    parts = []
    content = message.get("content")
    if content is not None:
        parts.append(_as_text(content))
    for name, value in message.items():
        if name not in ("role", "content"):
            parts.append(f"[{name}] {_as_text(value)}")
    return "\n".join(parts)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _indented(name: str, text: str, depth: int) -> Iterator[str]:
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} ... ({len(text) - LONGEST} more characters)"
    first, *others = (cut.splitlines() or [""])
    margin = " " * depth
    yield f"{margin}{name}: {first}".rstrip()
    yield from (f"{margin}{' ' * (len(name) + 2)}{line}".rstrip() for line in others)
