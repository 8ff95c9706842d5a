"""Data that a method cannot learn from, or that cannot be read so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpctrain.recipe.check_data import check_data
from hpctrain.recipe.schema import Recipe

Make = Callable[..., Recipe]
STREAM: dict[str, Any] = {"data__source": "files", "data__paths": ["a.jsonl"], "data__mode": "stream"}


@pytest.mark.parametrize(("changes", "key", "message"), [
    ({"method": "dpo", "data__format": "chat"}, "format", "learns from 'preference', not from 'chat'"),
    ({"method": "dpo"}, "source", "'python-docs' is 'text' only, and the format here is 'preference'"),
    ({"data__largest_number": 5}, "largest_number", "belongs to source 'arithmetic'"),
    ({**STREAM, "method": "sft"}, "mode", "reads all rows before it begins"),
    ({"data__mode": "stream"}, "mode", "is made in memory and not streamed"),
    ({**STREAM, "data__rows": 5}, "rows", "read on and on"),
    ({**STREAM, "data__validation_fraction": 0.1}, "validation_fraction", "no known end"),
    ({**STREAM, "training__epochs": 1.0}, "epochs", "no known length"),
    ({"data__copy_to": "/scratch"}, "copy_to", "needs data.mode 'copy'"),
    ({"data__mode": "copy", "data__copy_to": "scratch"}, "copy_to", "an absolute path"),
])
def test_impossible_data_is_refused(make: Make, changes: dict[str, Any], key: str, message: str) -> None:
    """Each combination that cannot work is named with the key to change."""
    found = list(check_data(make(**changes)))

    assert [(problem.path[-1], message in problem.message) for problem in found] == [(key, True)]


@pytest.mark.parametrize("changes", [
    {}, STREAM, {"method": "sft", "data__source": "docstring-questions"}, {"method": "rlvr", "data__source": "arithmetic"},
    {"method": "sft", "data__source": "arithmetic", "data__format": "prompt_completion", "data__largest_number": 9},
    {"data__mode": "copy", "data__copy_to": "/scratch"}, {"data__source": "docstring-questions"},
])
def test_possible_data_passes(make: Make, changes: dict[str, Any]) -> None:
    """What can be learned from, and read so, is not objected to."""
    assert list(check_data(make(**changes))) == []
