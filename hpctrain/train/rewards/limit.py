"""Gives up on a computation that takes too long (adapter over POSIX timers)."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class TooLongError(Exception):
    """The time is over."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Interrupt the block with :class:`TooLongError` when it runs longer.

    Python's own regular expressions look for signals while they search, so that one which would take until the end of
    time is interrupted too. Outside the main thread, where no signal can be handled, nothing is limited.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        # A second alarm cannot come: the timer runs once.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _raise(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise TooLongError
