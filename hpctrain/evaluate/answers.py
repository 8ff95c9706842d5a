"""Is a written answer the right one? (pure)"""

from __future__ import annotations

import re
from fractions import Fraction

_NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_LONGEST = 400
"""Digits of a number that are looked at: what is longer is no answer."""


def is_right(given: str, expected: str, match: str = "auto") -> bool:
    r"""Compare an answer with the right one.

    Args:
        given: what the model wrote.
        expected: the right answer.
        match: ``exact``: the same words, whatever their case, blanks and closing punctuation; ``contains``: the right answer
            is found in what was written; ``number``: the last number written, or the one in ``\boxed{}``, has the same
            value; ``auto``: ``number`` where the right answer is a number, else ``exact``.
    """
    if match == "auto":
        match = "number" if number_of(expected) is not None else "exact"
    if match == "number":
        found, right = last_number(given), number_of(expected)
        if right is None:
            right = last_number(expected)
        return found is not None and found == right
    if match == "contains":
        return bool(plain(expected)) and plain(expected) in plain(given)
    return plain(given) == plain(expected)


def plain(text: str) -> str:
    """Words alone: one case, single blanks, no quotes around and no punctuation at the end."""
    return re.sub(r"\s+", " ", text).strip().strip("\"'`").rstrip(".!?;, ").casefold()


def number_of(text: str) -> Fraction | None:
    """The value of a text that is a number and nothing else."""
    match = _NUMBER.fullmatch(text.strip().removeprefix("$").rstrip(".").strip())
    return _value(match.group()) if match else None


def last_number(text: str) -> Fraction | None:
    r"""The value in the last ``\boxed{}``, else the last number in a text."""
    boxed = _BOXED.findall(text)
    if boxed and (value := number_of(boxed[-1])) is not None:
        return value
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def _value(text: str) -> Fraction | None:
    if len(text) > _LONGEST:
        return None
    above, _, below = text.replace(",", "").replace(" ", "").partition("/")
    try:
        return Fraction(above) / Fraction(below or "1")
    except (ValueError, ZeroDivisionError):
        return None
