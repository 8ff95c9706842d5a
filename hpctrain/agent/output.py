"""Captures what ranks print, without ever making them wait for a slow or full disk (service).

One thread per rank reads its pipe; one thread writes all files. Between them is a queue with a limit in bytes: when
the file system cannot keep up, or is full, lines are dropped and counted, and the log says how many once it can.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from hpctrain.agent.lines import LineCutter, stamp
from hpctrain.clock import Clock
from hpctrain.files import PRIVATE_DIR, PRIVATE_FILE

QUEUE_LIMIT_BYTES = 16 * 2**20
TAIL_LINES = 40
_READ_BYTES = 64 * 1024


@dataclass(slots=True, eq=False)
class _Target:
    """One log file."""

    path: Path
    echo: bool
    fd: int | None = None
    dropped: int = 0
    why: str = ""
    torn: bool = False
    released: bool = False
    waiting: list[bytes] = field(default_factory=list)


class OutputWriter:
    """The thread that writes: rank logs, and the lines of echoed ranks also to our own standard output.

    Args:
        echo: writes bytes to the agent's standard output.
    """

    def __init__(
        self, clock: Clock, echo: Callable[[bytes], None] | None = None, limit_bytes: int = QUEUE_LIMIT_BYTES
    ) -> None:
        self._clock = clock
        self._echo = echo or _write_stdout
        self._limit = limit_bytes
        self._queue: deque[tuple[_Target | None, bytes]] = deque()
        self._queued_bytes = 0
        self._changed = threading.Condition()
        self._closing = False
        self._targets: list[_Target] = []
        self._thread = threading.Thread(target=self._run, name="output-writer", daemon=True)
        self._thread.start()

    def open(self, path: Path, *, echo: bool) -> _Target:
        """A log to write to; the file appears with its first line."""
        target = _Target(path, echo)
        self._targets.append(target)
        return target

    def put(self, target: _Target, line: bytes) -> None:
        """Queue one line, stamped now; never waits."""
        self._enqueue(target, f"{stamp(self._clock.time())} ".encode() + line + b"\n")

    def say(self, text: str) -> None:
        """A line of the agent's own, for its standard output only."""
        self._enqueue(None, f"{stamp(self._clock.time())} hpctrain: {text}\n".encode())

    def release(self, target: _Target) -> None:
        """Close a log once what is queued for it is written: a node that starts many incarnations has many logs."""
        with self._changed:
            target.released = True
            self._queue.append((target, b""))
            self._changed.notify()

    def close(self, timeout_s: float) -> None:
        """Write what is queued, as far as that works within the time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _enqueue(self, target: _Target | None, data: bytes) -> None:
        with self._changed:
            if self._queued_bytes + len(data) > self._limit:
                if target is not None:
                    target.dropped += 1
                    target.why = "the file system did not keep up"
                return
            self._queue.append((target, data))
            self._queued_bytes += len(data)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                batch, self._queue, self._queued_bytes = self._queue, deque(), 0
            if not batch:
                break
            self._write_batch(batch)
        for target in self._targets:
            if target.dropped:
                self._write(target, [])
            self._close(target, keep=True)

    def _close(self, target: _Target, *, keep: bool = False) -> None:
        if target.fd is not None:
            os.close(target.fd)
            target.fd = None
        if not keep and target in self._targets:  # a line that comes after the release opens it once more
            self._targets.remove(target)

    def _write_batch(self, batch: deque[tuple[_Target | None, bytes]]) -> None:
        touched: dict[int, _Target] = {}
        echoed: list[bytes] = []
        for target, data in batch:
            if target is None or target.echo:
                echoed.append(data)
            if target is not None:
                target.waiting.append(data)
                touched[id(target)] = target
        for target in touched.values():
            lines, target.waiting = [line for line in target.waiting if line], []
            self._write(target, lines)
            if target.released and not target.dropped:
                self._close(target)
        if echoed:
            self._echo(b"".join(echoed))

    def _write(self, target: _Target, lines: list[bytes]) -> None:
        if not lines and not target.dropped:
            return
        with self._changed:
            dropped, why, target.dropped = target.dropped, target.why, 0
        said = f"{stamp(self._clock.time())} hpctrain: {dropped} lines are missing here: {why}\n"
        note = [said.encode()] if dropped else []
        # A write that was cut short by a full disk left half a line: it is ended before anything else is written.
        data = (b"\n" if target.torn else b"") + b"".join(note + lines)
        try:
            if target.fd is None:
                target.path.parent.mkdir(mode=PRIVATE_DIR, parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
                target.fd = os.open(target.path, flags, PRIVATE_FILE)
            while data:
                written = os.write(target.fd, data)
                target.torn = not data[:written].endswith(b"\n")
                data = data[written:]
        except OSError as error:
            with self._changed:
                target.dropped += dropped + min(len(lines), data.count(b"\n"))
                target.why = error.strerror or str(error)


class RankOutput:
    """The thread that reads one rank's pipe.

    Attributes:
        tail: the last lines, without stamps.
        received_bytes: how much the rank has printed.

    Args:
        listen: called with every line.
    """

    def __init__(
        self, pipe: IO[bytes], writer: OutputWriter, target: _Target, clock: Clock,
        listen: Callable[[bytes], None] | None = None,
    ) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.received_bytes = 0
        self._listen = listen
        self._pipe = pipe
        self._writer = writer
        self._target = target
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name=f"read-{target.path.name}", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Wait until everything printed was read; a grandchild that keeps the pipe open is not waited for longer."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        cutter = LineCutter()
        fd = self._pipe.fileno()
        while True:
            try:
                data = os.read(fd, _READ_BYTES)
            except OSError:
                break
            self.received_bytes += len(data)
            for line in cutter.feed(data, self._clock.monotonic()) if data else cutter.close():
                self.tail.append(line.decode("utf-8", errors="replace"))
                self._writer.put(self._target, line)
                if self._listen is not None:
                    self._listen(line)
            if not data:
                break
        self._writer.release(self._target)


def _write_stdout(data: bytes) -> None:
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(1, view) :]
    except OSError:
        pass  # srun has gone away: its end is being dealt with elsewhere
