"""Reward for an answer in which a pattern is found (pure)."""

from __future__ import annotations

import re


def regex(pattern: re.Pattern[str], text: str) -> float:
    r"""1 when the pattern is found anywhere in the text; anchor it with ``\A`` and ``\Z`` to mean the whole."""
    return float(pattern.search(text) is not None)
