"""Signals as something to wait for (adapter over ``signal``)."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any


class Wakeup:
    """Remembers signals and ends a wait when one arrives; a child's death arrives as SIGCHLD.

    Use as a context manager in the main thread. The handlers only remember: a handler that did more would run in the
    middle of anything.

    Args:
        signals: what to remember, beside SIGCHLD.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        self._signals = (*signals, signal.SIGCHLD)
        self._seen: set[int] = set()
        self._old: dict[int, Any] = {}
        self._old_fd = -1
        self._read, self._write = -1, -1

    def __enter__(self) -> Wakeup:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._remember) for number in self._signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float, readable: Iterable[int] = (), writable: Iterable[int] = ()) -> None:
        """Return at the next signal, when one of the descriptors is ready, or after the time.

        A descriptor that has been closed ends the wait, too: whoever owns it will see why.
        """
        poller = select.poll()  # not select: a job of thousands of nodes has descriptors beyond its 1024
        for number in (self._read, *(one for one in readable if one >= 0)):
            poller.register(number, select.POLLIN)
        for number in (one for one in writable if one >= 0):
            poller.register(number, select.POLLIN | select.POLLOUT)
        poller.poll(max(0.0, timeout_s) * 1000)
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 512):
                pass

    def take(self, number: signal.Signals) -> bool:
        """Whether this signal arrived since it was last asked for."""
        arrived = number in self._seen
        self._seen.discard(number)
        return arrived

    def _remember(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._seen.add(number)
