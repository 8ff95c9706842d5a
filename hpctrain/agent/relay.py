"""Copies rank 0's heartbeat into the run directory, in a thread of its own (service).

A shared file system may stall for minutes. The agent's main loop must notice a dead rank all the same.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from hpctrain.agent.control import try_write
from hpctrain.files import write_atomic

PROGRESS_S = 1.0


class Relay:
    """Makes ``progress.json`` about once a second.

    Attributes:
        source: node-local heartbeat of rank 0, None where rank 0 is on another node; may be changed at any time.

    Args:
        progress: where it is copied to.
    """

    def __init__(self, progress: Path) -> None:
        self.source: Path | None = None
        self._progress = progress
        self._copied = b""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Copy the last heartbeat and end."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            ended = self._ended.wait(PROGRESS_S)
            self._copy()
            if ended:
                return

    def _copy(self) -> None:
        source = self.source
        if source is None:
            return
        with contextlib.suppress(OSError):
            data = source.read_bytes()
            # Not durable: it is replaced every second, and an fsync of a shared file system is dear.
            if data and data != self._copied and not try_write(lambda: write_atomic(self._progress, data, durable=False)):
                self._copied = data
