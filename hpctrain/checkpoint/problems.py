"""Errors as text, for several ranks to agree on (pure)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hpctrain.errors import HpctrainError


def lowest_error(errors: list[str]) -> str:
    """The first non-empty text, with the number of its rank in front unless it names one itself."""
    rank, text = next(((rank, text) for rank, text in enumerate(errors) if text), (0, ""))
    return text if not text or text.startswith("rank ") else f"rank {rank}: {text}"


def error_of(work: Callable[[], Any]) -> str:
    """Run one rank's part of a joint action and return its error as text, "" for none: for all ranks to agree on."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait to hear of it
        return describe(error)
    return ""


def describe(error: Exception) -> str:
    """One line for a person: what went wrong, and where."""
    if isinstance(error, (HpctrainError, ValueError)):  # written for people, both
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"
