"""Reward for an answer that equals the row's (pure)."""

from __future__ import annotations

from typing import Any


def exact_match(answer: str | None, wanted: Any) -> float | None:
    """1 when both are the same text but for blanks around them, 0 when not or when no answer was found; None when the row
    has no answer to compare with.

    Args:
        wanted: the row's answer; a list of them means that any will do.
    """
    if wanted is None:
        return None
    if answer is None:
        return 0.0
    accepted = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    return float(any(answer.strip() == str(item).strip() for item in accepted))
