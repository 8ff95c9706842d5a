"""A short text that is the same for the same bug (pure, standard library only).

What differs from start to start and from rank to rank is left out: numbers, addresses, times, hosts, temporary names, line
numbers and the machinery around the user's code. What is left is the kind of error, its words, and where it was raised.
"""

from __future__ import annotations

import hashlib
import re

FRAMES = 3
"""Innermost places of the traceback that are kept: enough to tell callers apart, few enough that a rank which met the
same error from another loop gets the same text."""
LONGEST = 240
_KILLED_FROM_OUTSIDE = {128 + 9, 128 + 15, 128 + 19, -9, -15, -19}
"""SIGKILL, SIGTERM, SIGSTOP: without words of its own such an end says nothing about the program."""
_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line \d+, in (?P<function>.+)$')
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d([.,]\d+)?\b"), "TIME"),
    (re.compile(r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b"), "ID"),
    (re.compile(r"\b0[xX][0-9a-fA-F]+\b"), "ADDRESS"),
    (re.compile(r"\b(?=[0-9a-fA-F]*\d)(?=[0-9a-fA-F]*[a-fA-F])[0-9a-fA-F]{8,}\b"), "ID"),
    (re.compile(r"\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b"), "HOST"),
    (re.compile(r"\[[0-9a-fA-F:%]*::?[0-9a-fA-F:%.]*\](:\d+)?"), "HOST"),
    (re.compile(r"\btmp[A-Za-z0-9_]{6,}\b"), "TMP"),
    (re.compile(r"(?<![\w.])(/[\w.@+~-]+)+/(?=[\w.@+~-]+)"), ""),
    (re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?"), "#"),
    (re.compile(r"#([\s,.:x-]*#)+"), "#"),
    (re.compile(r"\s+"), " "),
)


def fingerprint(message: str, traceback: str, exit_code: int) -> str:
    """The same text for the same bug, whatever addresses, ranks, numbers and times say.

    Args:
        message: the error's words, such as ``ValueError: boom``; "" if there are none.
        traceback: a Python traceback, "" if there is none. Of several, the last counts.
        exit_code: as a shell shows it: 128 + signal for a killed program.

    Returns:
        At most 240 characters; "" where nothing was said and the program was killed from outside.
    """
    error = _error_line(traceback) or next((line for line in reversed(message.splitlines()) if line.strip()), "")
    words = normalise(error)
    places = _places(traceback)
    if not words and not places:
        return "" if exit_code in _KILLED_FROM_OUTSIDE else f"exit code {exit_code}"
    text = " | ".join(part for part in (words, " < ".join(places)) if part)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 17]}~{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def normalise(text: str) -> str:
    """Words without what changes from one occurrence to the next."""
    for pattern, word in _RULES:
        text = pattern.sub(word, text)
    return text.strip()


def _last_block(traceback: str) -> list[str]:
    lines = traceback.splitlines()
    starts = [at for at, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    return lines[starts[-1] :] if starts else lines


def _error_line(traceback: str) -> str:
    """The line that names the exception: the first one after the places that is not indented."""
    block = _last_block(traceback)
    last = max((at for at, line in enumerate(block) if _FRAME.match(line)), default=None)
    if last is None:
        return ""
    return next((line for line in block[last + 1 :] if line.strip() and not line[0].isspace()), "")


def _places(traceback: str) -> list[str]:
    """``data.py:next_batch``, innermost first."""
    found = [match for line in _last_block(traceback) if (match := _FRAME.match(line))]
    names = [f"{match['file'].rsplit('/', 1)[-1]}:{normalise(match['function'])}" for match in reversed(found)]
    return list(dict.fromkeys(names))[:FRAMES]
