"""The agent's slow work: everything on the shared file system, in a thread of its own (service).

A shared file system may stall for minutes. The agent's main loop must notice a dead rank all the same, so it only
looks at the attributes of this object.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

from hpctrain.agent.control import Control, try_write
from hpctrain.clock import Clock
from hpctrain.files import write_atomic
from hpctrain.ids import NodeName

POLL_S = 0.5
PROGRESS_S = 1.0


class Relay:
    """Polls the control directory and copies rank 0's heartbeat into the run directory.

    Attributes:
        stop_reason: why the ranks are asked to save and stop, None if they are not.
        abort_reason: why the ranks are to be killed, None if they are not.
        flush_reason: why another node's agent has all ranks killed and memory saved, None if none has.
        stop_seen_time: when the stop request was first seen.

    Args:
        heartbeat: node-local file of rank 0, None on all other nodes.
        progress: where it is copied to.
    """

    def __init__(self, control: Control, node: NodeName, clock: Clock, heartbeat: Path | None, progress: Path) -> None:
        self.stop_reason: str | None = None
        self.abort_reason: str | None = None
        self.flush_reason: str | None = None
        self._control = control
        self._node = node
        self._clock = clock
        self._heartbeat = heartbeat
        self._progress = progress
        self._copied = b""
        self._term = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin polling."""
        self._thread.start()

    def report_term(self) -> None:
        """Have the coordinator told that this agent was sent SIGTERM."""
        self._term.set()

    def finish(self, timeout_s: float) -> None:
        """Copy the last heartbeat and end."""
        self._ended.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        next_copy = 0.0
        told = False
        while True:
            ended = self._ended.wait(POLL_S)
            if self._term.is_set() and not told:
                told = not try_write(self._control.notify_term, self._node, self._clock.time())
            if self.stop_reason is None:
                self.stop_reason = self._control.stop_reason()
            self.abort_reason = self._control.abort_reason()
            self.flush_reason = self._control.flush_reason()
            if ended or self._clock.monotonic() >= next_copy:
                next_copy = self._clock.monotonic() + PROGRESS_S
                self._copy_heartbeat()
            if ended:
                return

    def _copy_heartbeat(self) -> None:
        if self._heartbeat is None:
            return
        with contextlib.suppress(OSError):
            data = self._heartbeat.read_bytes()
            # Not durable: it is replaced every second, and an fsync of a shared file system is dear.
            if data and data != self._copied and not try_write(lambda: write_atomic(self._progress, data, durable=False)):
                self._copied = data
