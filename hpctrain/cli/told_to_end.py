"""SIGTERM and SIGHUP as an exception, for commands that must take something down first (entry point)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType


class ToldToEnd(BaseException):
    """This process was sent a signal that ends it.

    Not an Exception, so that nothing on the way takes it for an error and goes on.

    Attributes:
        exit_code: as a shell would give it, 128 + the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self.name = signal.Signals(number).name


@contextlib.contextmanager
def told_to_end() -> Iterator[None]:
    """Raise :class:`ToldToEnd` in the body at the first SIGTERM or SIGHUP; later ones do not disturb the undoing.

    A signal that was ignored before (nohup) stays so. Signals can be set in the main thread only; elsewhere this does
    nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    terminals = [number for number in (1, 2) if os.isatty(number)]
    told: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if told:
            return
        told.append(number)
        if number == signal.SIGHUP:
            _let_go(terminals)
        raise ToldToEnd(number)

    wanted = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _let_go(terminals: list[int]) -> None:
    """A terminal that has hung up fails every write, and a message must not end the undoing."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    for number in terminals:
        os.dup2(null, number)
    os.close(null)
