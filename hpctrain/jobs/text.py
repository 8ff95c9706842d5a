"""Numbers, durations and times as people read them (pure)."""

from __future__ import annotations

import math
import re
import unicodedata
from datetime import datetime, timezone

_AGE = re.compile(r"(\d+(?:\.\d+)?)(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(seconds: float | None) -> str:
    """``0.4s``, ``12s``, ``3m 05s``, ``2h 05m``, ``3d 04h``; ``-`` for None or what is no number."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.1f}s" if round(seconds, 1) % 1 else f"{seconds:.0f}s"
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole % 86400 // 3600, whole % 3600 // 60
    if days:
        return f"{days}d {hours:02d}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h {minutes:02d}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m {whole % 60:02d}s" if whole % 60 else f"{minutes}m"
    return f"{whole}s"


def ago(time: float | None, now: float) -> str:
    """``12s ago``, ``7m ago``, ``3d ago``; ``just now`` for less than two seconds and for clocks that disagree."""
    if time is None:
        return "-"
    age = now - time
    if age < 2:
        return "just now"
    size, unit = next(((size, unit) for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")) if age >= size))
    # "1h 40m ago" says more than "1h ago"; "31h ago" would not.
    return f"{duration(age)} ago" if unit == "h" and age < 6 * size else f"{int(age // size)}{unit} ago"


def count(number: float | None) -> str:
    """``950``, ``12.3k``, ``4.56M``, ``1.20T``; ``-`` for None or what is no number."""
    if number is None or not math.isfinite(number):
        return "-"
    for factor, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            scaled = number / factor
            return f"{scaled:.{2 if abs(scaled) < 10 else 1 if abs(scaled) < 100 else 0}f}{suffix}"
    return f"{number:.0f}" if abs(number) >= 10 or number == int(number) else f"{number:.1f}"


def loss(value: float | None) -> str:
    """A loss with four significant digits; ``NaN`` and ``inf`` are shown, because they are the news."""
    if value is None:
        return "-"
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:.4g}" if not 1 <= abs(value) < 1000 else f"{value:.3f}"


def plural(number: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def stamp(time: float | None) -> str:
    """Local time to the second, with the day: ``2026-11-21 01:54:47``."""
    return "-" if time is None else datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def iso(time: float | None) -> str | None:
    """UTC with milliseconds, for machines: ``2026-11-21T01:54:47.123Z``."""
    if time is None:
        return None
    return datetime.fromtimestamp(time, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_iso(text: str) -> float | None:
    """Seconds since the epoch of an ISO time; without a zone it is local time; None if it is not one."""
    try:
        # Python 3.10 does not read "Z".
        return datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text).astimezone().timestamp()
    except (ValueError, OverflowError):
        return None


def parse_since(text: str, now: float) -> float:
    """The moment meant by ``10m``, ``1h30m`` (that long ago) or by an ISO time.

    Raises:
        ValueError: it is neither.
    """
    parts = _AGE.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return now - sum(float(number) * _SECONDS[unit] for number, unit in parts)
    moment = parse_iso(text)
    if moment is None:
        raise ValueError(f"{text!r} is neither an age such as 10m or 1h30m nor a time such as 2026-11-21T01:54")
    return moment


def bar(share: float, cells: int) -> str:
    """A bar of block characters."""
    full = round(max(0.0, min(1.0, share)) * cells)
    return "█" * full + "░" * (cells - full)


def cells(text: str) -> int:
    """Columns that a text takes on a terminal."""
    return sum(_width(char) for char in text)


def cut(text: str, columns: int) -> str:
    """A text that takes at most so many columns."""
    if cells(text) <= columns:
        return text
    kept, used = "", 0
    for char in text:
        used += _width(char)
        if used > columns - 1:
            break
        kept += char
    return kept + "…"


def _width(char: str) -> int:
    if unicodedata.combining(char) or unicodedata.category(char) in ("Cf", "Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
