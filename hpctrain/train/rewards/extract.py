"""Finds the answer in what a model wrote (pure)."""

from __future__ import annotations

import re

_NUMBER = re.compile(
    r"(?<![\w.])-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?(?:/\d+)?%?|(?<![\w.])-?\.\d+%?")
_FENCE = re.compile(r"```[ \t]*[\w+-]*[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.DOTALL)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")


def by_pattern(pattern: re.Pattern[str], text: str) -> str | None:
    """The first group of the last place where the pattern is found; None when it is nowhere."""
    last = None
    for last in pattern.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return None if last is None else last.group(1)


def boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds, braces inside it included; None without one that is closed."""
    found = None
    for match in _BOX.finditer(text):
        depth = 1
        for place in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                found = text[match.end():place]
                break
    return found


def last_number(text: str) -> str | None:
    """The last number in the text, with its sign, thousands separators, fraction or percent sign."""
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def code_block(text: str) -> str:
    """The last block between code fences, or, without fences, the whole text."""
    blocks = _FENCE.findall(text)
    return blocks[-1] if blocks else text
