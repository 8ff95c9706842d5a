"""Durations, sizes and counts as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpctrain.recipe.units import (
    parse_count,
    parse_duration,
    parse_duration_or_auto,
    parse_memory,
    parse_steps_or_auto,
    parse_switch,
)


@pytest.mark.parametrize(("text", "seconds"), [
    (90, 90), ("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2h", 7200), ("1d", 86400), ("02:00:00", 7200),
    ("1-00:00:01", 86401), ("100:00:00", 360000),
])
def test_durations(text: Any, seconds: int) -> None:
    """Each way of writing a duration gives its seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2x", "10:30", "-1", 0, True, None, 1.5, "1e3", [], "9" * 400, "9999d"])
def test_what_is_no_duration(text: Any) -> None:
    """MM:SS, unknown units, nothing and too much are refused, not guessed."""
    with pytest.raises(ValueError, match=r"duration|ten years"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "size"), [
    ("64GiB", 64 * 2**30), ("512 MiB", 2**29), ("80GB", 80 * 10**9), ("1.5TiB", 3 * 2**39), (2**30, 2**30),
    ("64gib", 64 * 2**30),
])
def test_memory(text: Any, size: int) -> None:
    """A number with its unit gives bytes; a whole number of bytes is taken from a resolved recipe."""
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["64", 64, "64G", "x", "", None, True, "1KiB", "9" * 30 + "TiB", 2**70])
def test_what_is_no_memory(text: Any) -> None:
    """A size without a unit is refused, because people mean different ones."""
    with pytest.raises(ValueError, match="memory size"):
        parse_memory(text)


def test_counts() -> None:
    """A count may be written as 15e9, but not as half a token or as text."""
    assert parse_count(15e9) == 15_000_000_000
    for wrong in (1.5, "1", True, None, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="whole number"):
            parse_count(wrong)


@pytest.mark.parametrize(("parse", "good", "bad"), [
    (parse_duration_or_auto, {"auto": "auto", "2m": 120}, ["automatic", 0, None]),
    (parse_steps_or_auto, {"auto": "auto", 7: 7}, ["7", 0, True, 1.5, None]),
    (parse_switch, {"auto": "auto", True: True, False: False}, ["yes", 1, None]),
])
def test_what_may_be_auto(parse: Callable[[Any], Any], good: dict[Any, Any], bad: list[Any]) -> None:
    """``auto`` or the value itself is taken; anything else is refused with a message that offers auto."""
    assert list(good.values()) == [parse(value) for value in good]
    for value in bad:
        with pytest.raises(ValueError, match="auto"):
            parse(value)
