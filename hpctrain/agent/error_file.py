"""What a dead rank left to explain itself: torch's error file, or the end of its output (pure)."""

from __future__ import annotations

import json
from collections.abc import Sequence

_TRACEBACK = "Traceback (most recent call last):"


def explain(error_file: str, tail: Sequence[str], *, killed: bool = False) -> tuple[str, str]:
    """The message and the traceback of an error, each "" if there is none.

    Args:
        error_file: text of TORCHELASTIC_ERROR_FILE in torchrun's format, "" if the rank wrote none.
        tail: last lines of its output, without stamps.
        killed: it was killed from outside: what it said last, unless that was an error, has nothing to do with its end.
    """
    message, traceback = _from_file(error_file)
    if not traceback:
        traceback = _traceback_in(tail)
    if not message and (traceback or not killed):
        spoken = [line.strip() for line in (traceback.splitlines() or tail) if line.strip()]
        message = spoken[-1] if spoken else ""
    return message, traceback


def _from_file(text: str) -> tuple[str, str]:
    """``{"message": {"message": ..., "extraInfo": {"py_callstack": ...}}}``, or with a plain text as message."""
    try:
        message = json.loads(text)["message"]
    except (ValueError, KeyError, TypeError):
        return "", ""
    if isinstance(message, dict):
        extra = message.get("extraInfo")
        stack = extra.get("py_callstack", "") if isinstance(extra, dict) else ""
        return str(message.get("message") or ""), str(stack or "")
    return str(message), ""


def _traceback_in(tail: Sequence[str]) -> str:
    """The last traceback of the output, to its last line that belongs to it."""
    starts = [at for at, line in enumerate(tail) if line.strip().endswith(_TRACEBACK)]
    if not starts:
        return ""
    first = tail[starts[-1]]
    # torch puts "[rank3]: " before every line once a process group exists.
    mark = first[: first.index(_TRACEBACK)] if not first[0].isspace() else ""
    lines = [line.removeprefix(mark) if mark else line for line in tail[starts[-1] :]]
    end = next((at for at, line in enumerate(lines[1:], 1) if line and not line[0].isspace()), len(lines) - 1)
    return "\n".join(lines[: end + 1])
