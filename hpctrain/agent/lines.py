"""Cuts what a program prints into lines (pure)."""

from __future__ import annotations

from datetime import datetime, timezone

MAX_LINE_BYTES = 64 * 1024
"""A longer line is cut into several, so that a program that never ends its line cannot fill the memory."""
BAR_INTERVAL_S = 1.0
"""A progress bar that redraws itself with carriage returns leaves at most one line per this time."""


class LineCutter:
    r"""Bytes in, whole lines (without their ends) out.

    ``\n`` and ``\r\n`` end a line. A lone ``\r`` means that what follows overwrites the line: of such redrawings one
    per :data:`BAR_INTERVAL_S` is kept, and always the last before a real line end. Any byte is allowed in a line.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._last_bar = float("-inf")

    def feed(self, data: bytes, now: float) -> list[bytes]:
        """Take what was read at ``now`` (seconds of any clock) and return the lines that it completes."""
        lines: list[bytes] = []
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            lines += _pieces(_drawn(line.removesuffix(b"\r")))
        lines += self._redrawings(now)
        if len(self._rest) > MAX_LINE_BYTES:
            *ready, self._rest = _pieces(self._rest)
            lines += ready
        return lines

    def close(self) -> list[bytes]:
        """The last line, if it has no end."""
        rest, self._rest = _drawn(self._rest.removesuffix(b"\r")), b""
        return _pieces(rest) if rest else []

    def _redrawings(self, now: float) -> list[bytes]:
        # A trailing "\r" may be half of a "\r\n": it stays until its neighbour is seen.
        body, mark = (self._rest[:-1], b"\r") if self._rest.endswith(b"\r") else (self._rest, b"")
        if b"\r" not in body:
            return []
        past, self._rest = body.rsplit(b"\r", 1)
        self._rest += mark
        drawn = _drawn(past)
        if now - self._last_bar < BAR_INTERVAL_S or not drawn.strip():
            return []
        self._last_bar = now
        return _pieces(drawn)


def stamp(time_s: float) -> str:
    """The prefix of every captured line: ``2026-01-31T23:59:59.123Z``.

    Args:
        time_s: seconds since the epoch.
    """
    # Both parts are cut from one integer, so that rounding can never show 60 seconds or 1000 ms.
    millis = int(time_s * 1000)
    whole = datetime.fromtimestamp(millis // 1000, timezone.utc)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{millis % 1000:03d}Z"


def _drawn(line: bytes) -> bytes:
    """What a terminal would show of a line with carriage returns, roughly: the last part that is not empty."""
    parts = [part for part in line.split(b"\r") if part]
    return parts[-1] if parts else b""


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + MAX_LINE_BYTES] for at in range(0, len(line), MAX_LINE_BYTES)] or [b""]
