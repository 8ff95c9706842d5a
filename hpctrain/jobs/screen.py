"""Lines that scroll above one line that is redrawn, and plain lines where there is no terminal (adapter over streams)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import TextIO

from hpctrain.jobs.status import JobStatus
from hpctrain.jobs.text import bar, count, cut, duration, loss


class Screen:
    """Where following writes: data on ``out``, messages on ``err``, progress on a terminal only.

    Args:
        live: ``out`` and ``err`` are terminals: keep one progress line below everything else.
    """

    def __init__(self, out: TextIO, err: TextIO, *, live: bool = False) -> None:
        self._out, self._err, self._live = out, err, live
        self._drawn = ""

    def lines(self, lines: Iterable[str]) -> None:
        """Print data."""
        text = "".join(f"{line}\n" for line in lines)
        if text:
            self._erase()
            self._out.write(text)
            self._out.flush()

    def message(self, text: str) -> None:
        """Print a message for people."""
        self._erase()
        self._err.write(f"{text}\n")
        self._err.flush()

    def progress(self, text: str) -> None:
        """Redraw the line below; does nothing without a terminal."""
        if not self._live:
            return
        text = cut(text, shutil.get_terminal_size().columns - 1)
        if text != self._drawn:
            self._erase()
            self._err.write(text)
            self._err.flush()
            self._drawn = text

    def close(self) -> None:
        """Take the progress line away."""
        self._erase()

    def _erase(self) -> None:
        if self._drawn:
            self._err.write("\r\x1b[2K")
            self._err.flush()
            self._drawn = ""


def progress_text(status: JobStatus, *, bar_cells: int = 20) -> str:
    """One line: bar, steps, loss, speed, time left."""
    if status.step is None:
        return f"{status.state.value}: {status.explanation}"
    parts = [f"step {status.step}" + (f"/{status.total_steps}" if status.total_steps else "")]
    if status.total_steps:
        share = min(1.0, status.step / status.total_steps)
        parts[0] = f"{bar(share, bar_cells)} {share:4.0%} {parts[0]}"
    if status.loss is not None:
        parts.append(f"loss {loss(status.loss)}")
    if status.tokens_per_s is not None:
        parts.append(f"{count(status.tokens_per_s)} tok/s")
    if status.eta_s is not None:
        parts.append(f"{duration(status.eta_s)} left")
    if status.state.value != "running" or status.phase not in ("", "step"):
        parts.append(status.phase if status.state.value == "running" else status.state.value)
    return " · ".join(parts)
