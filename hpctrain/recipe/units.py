"""Durations and memory sizes as people write them (pure)."""

from __future__ import annotations

import re
from typing import Any

_DURATION_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_MEMORY_UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}
_LONGEST_S = 3653 * 86400
_LARGEST_BYTES = 2**60
_SIMPLE = re.compile(r"^\s*(\d{1,18}(?:\.\d{1,9})?)\s*([A-Za-z]*)\s*$")
_CLOCK = re.compile(r"^(?:(\d{1,5})-)?(\d{1,4}):(\d{2})(?::(\d{2}))?$")


def parse_duration(value: Any) -> int:
    """Seconds from an int, ``90s``, ``30m``, ``2h``, ``1d``, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises:
        ValueError: anything else; the message shows what would have been right. ``MM:SS`` is refused, because
            Slurm reads it as minutes and people read it as hours.
    """
    if isinstance(value, bool):
        raise ValueError(_duration_help(value))
    if isinstance(value, int):
        seconds = value
    elif isinstance(value, str) and (match := _SIMPLE.match(value)):
        unit = match.group(2).lower()
        if unit and unit not in _DURATION_UNITS:
            raise ValueError(_duration_help(value))
        seconds = round(float(match.group(1)) * _DURATION_UNITS.get(unit, 1))
    elif isinstance(value, str) and (match := _CLOCK.match(value.strip())) and match.group(4):
        days, hours, minutes, secs = (int(part or 0) for part in match.groups())
        seconds = ((days * 24 + hours) * 60 + minutes) * 60 + secs
    else:
        raise ValueError(_duration_help(value))
    if seconds <= 0:
        raise ValueError(f"{value!r} is not a positive duration")
    if seconds > _LONGEST_S:
        raise ValueError(f"{value!r} is longer than ten years")
    return seconds


def parse_duration_or_auto(value: Any) -> int | str:
    """Seconds as :func:`parse_duration` reads them, or ``auto`` as it is.

    Raises:
        ValueError: anything else.
    """
    if value == "auto":
        return "auto"
    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; or auto") from None


def parse_steps_or_auto(value: Any) -> int | str:
    """A number of steps from 1 on, or ``auto``.

    Raises:
        ValueError: anything else.
    """
    if value == "auto":
        return "auto"
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10**12:
        return value
    raise ValueError(f"expected auto or a number of steps from 1 on, got {value!r}")


def parse_switch(value: Any) -> bool | str:
    """``true``, ``false`` or ``auto``.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool):
        return value
    if value == "auto":
        return "auto"
    raise ValueError(f"expected true, false or auto, got {value!r}")


def parse_memory(value: Any) -> int:
    """Bytes from ``64GiB``, ``80GB``, ``512MiB``; the unit is required so that nobody has to guess it.

    Raises:
        ValueError: anything else; the message shows what would have been right.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 2**20 <= value <= _LARGEST_BYTES:
        return value  # already resolved: a whole number of bytes, as recipe.resolved.yaml stores it
    match = _SIMPLE.match(value) if isinstance(value, str) else None
    unit = match.group(2).upper() if match else ""
    if not match or unit not in _MEMORY_UNITS:
        raise ValueError(f"{value!r} is not a memory size; write a number and a unit, such as 64GiB or 512MiB")
    size_bytes = round(float(match.group(1)) * _MEMORY_UNITS[unit])
    if not 2**20 <= size_bytes <= _LARGEST_BYTES:
        raise ValueError(f"{value!r} is not a plausible memory size; expected 1 MiB to 1 EiB")
    return size_bytes


def parse_count(value: Any) -> int:
    """A whole number from an int or a float that is one, such as ``15e9``.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"{value!r} is not a whole number; write it as 15000000 or 15e6")


def format_bytes(size_bytes: float) -> str:
    """A size for people: ``16.0 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size_bytes) < 1024 or unit == "TiB":
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    raise AssertionError("unreachable")


def format_duration(seconds: float) -> str:
    """A duration for people: ``42 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def several(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 node``, ``1,024 nodes``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _duration_help(value: Any) -> str:
    return f"{value!r} is not a duration; write seconds, or 90s, 30m, 2h, 1d, HH:MM:SS, D-HH:MM:SS"
