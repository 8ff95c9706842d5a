"""A progress bar of bytes with its rate, on standard error, only where that is a terminal (entry point)."""

from __future__ import annotations

import os
import shutil
import sys
import time
from types import TracebackType

import click

REDRAW_S = 0.1
CELLS = 24


class ByteProgress:
    """Draws while bytes are counted; silent in a pipe.

    Use as a context manager; the bar is gone at its end.

    Args:
        title: what is being done.
        total: bytes that will be counted.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, max(1, total), 0
        self._started = self._drawn = time.monotonic()
        self._wanted = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._started

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._wanted:
            click.echo("\r\x1b[K", err=True, nl=False)

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        self._done += count
        now = time.monotonic()
        if self._wanted and now - self._drawn >= REDRAW_S:
            self._drawn = now
            click.echo("\r\x1b[K" + self._line(now - self._started), err=True, nl=False)

    def _line(self, seconds: float) -> str:
        from hpctrain.jobs.text import bar, cut, duration
        from hpctrain.recipe.units import format_bytes

        share, rate = min(1.0, self._done / self._total), self._done / max(seconds, 1e-6)
        left = duration((self._total - self._done) / rate) if self._done else "-"
        text = (f"{self._title}  {bar(share, CELLS)} {share:4.0%}  {format_bytes(rate)}/s  {left} left  "
                f"{format_bytes(self._done)} of {format_bytes(self._total)}")
        # A line that wraps could not be drawn over.
        return cut(text, shutil.get_terminal_size().columns - 1)
