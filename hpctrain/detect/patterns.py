"""Regular expressions of users: compiled once, and refused where they could run for ever (pure).

Python's matcher cannot be interrupted after a time. Two things keep a pattern from stalling whoever runs it: a line is cut
to :data:`LONGEST_LINE` characters, and a pattern whose cost grows exponentially with the line's length is refused before
the job is queued. What remains is polynomial, and runs only in processes of the job itself.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

LONGEST_LINE = 1000
"""Characters of a line that rules look at."""
MOST_WIDE_REPEATS = 3
"""Unbounded repeats of "nearly anything", such as ``.*``: each more multiplies the worst time by the line's length."""
_MANY = 10
"""Repeats up to here are a constant factor."""

try:
    _parser: Any = importlib.import_module("re._parser")
except ImportError:  # Python 3.10
    _parser = importlib.import_module("sre_parse")


def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern; ``re`` keeps no cache large enough for our purpose, so callers keep the result.

    Raises:
        ValueError: it is no regular expression.
    """
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression: {error}") from None


def why_dangerous(pattern: str) -> str:
    """Why a pattern may take far too long on some line; "" when it may not.

    Raises:
        ValueError: it is no regular expression.
    """
    compiled(pattern)
    wide = 0

    def visit(items: Any, inside: bool) -> str:
        nonlocal wide
        for operation, argument in items:
            name = str(operation)
            if name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
                low, high, body = argument
                unbounded = high > _MANY
                if inside and high != low:
                    return "a repeat stands inside another one that has no bound"
                wide += unbounded and _is_wide(body)
                found = visit(body, inside or (unbounded and name != "POSSESSIVE_REPEAT"))
            elif name == "BRANCH" and inside:
                return "a choice (|) stands inside a repeat that has no bound"
            else:
                found = next((text for part in _parts(argument) if (text := visit(part, inside))), "")
            if found:
                return found
        return ""

    found = visit(_parser.parse(pattern), False)
    if not found and wide > MOST_WIDE_REPEATS:
        found = f"it has {wide} repeats like '.*'; {MOST_WIDE_REPEATS} are allowed"
    return found


def _parts(argument: Any) -> list[Any]:
    """The patterns inside an operation's argument, whatever its shape: groups, branches, look-arounds, conditions."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, tuple | list):
        return [part for item in argument for part in _parts(item)]
    return []


def _is_wide(body: Any) -> bool:
    """``.`` or a negated set."""
    for operation, argument in body:
        if str(operation) in ("ANY", "NOT_LITERAL"):
            return True
        if str(operation) == "IN" and argument and str(argument[0][0]) == "NEGATE":
            return True
    return False
