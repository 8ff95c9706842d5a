"""Reward for an answer that is JSON and fits a schema (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hpctrain.json_schema import mismatch
from hpctrain.train.rewards.extract import code_block


def json_answer(text: str, schema: Mapping[str, Any]) -> float:
    """1 when the text, or the last fenced block in it, is one JSON value that fits the schema; else 0."""
    try:
        value = json.loads(code_block(text), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return float(mismatch(value, schema) is None)


def _refuse(word: str) -> None:
    """NaN and Infinity, which Python's parser takes, are no JSON."""
    raise ValueError(word)
