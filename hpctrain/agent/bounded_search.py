"""Searches lines for the patterns of a recipe, for a bounded CPU time (adapter over the interval timer).

Python's matcher looks at pending signals while it works, and a handler that raises ends it. That works in the main thread
only; so reader threads put lines into a :class:`LineFilter`, and the main thread searches them.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from types import FrameType

from hpctrain.detect.patterns import LONGEST_LINE, compiled

LONGEST_SEARCH_S = 0.05
"""A pattern that takes more CPU time on one line is switched off: at thousands of lines a second it would stall an agent."""
MOST_WAITING = 10_000
"""Lines that wait to be searched; of more the oldest are dropped, and counted."""


class _TooLongError(Exception):
    """Raised by the timer inside the search."""


class BoundedSearch:
    """A search that gives up. Only for the main thread; elsewhere it is not bounded.

    Attributes:
        slow: patterns that were switched off.
    """

    def __init__(self, longest_s: float = LONGEST_SEARCH_S) -> None:
        self._longest_s = longest_s
        self.slow: list[str] = []

    def __call__(self, pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
        """The match; None when there is none, when it took too long, and when it ever did."""
        if pattern.pattern in self.slow:
            return None
        try:
            with _alarm(self._longest_s):
                return pattern.search(text[:LONGEST_LINE])
        except _TooLongError:
            self.slow.append(pattern.pattern)
            return None


class LineFilter:
    """Chooses the lines that a log rule asks for.

    Args:
        patterns: see :func:`hpctrain.detect.build.line_patterns`.

    Attributes:
        dropped: lines that were not searched because too many waited.
        search: tells which patterns were switched off.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [compiled(pattern) for pattern in patterns]
        self._waiting: deque[tuple[int, bytes]] = deque(maxlen=MOST_WAITING)
        self.search = BoundedSearch()
        self.dropped = 0

    def offer(self, rank: int, line: bytes) -> None:
        """Take a line that a rank has printed; from any thread, and cheap when there are no rules."""
        if self._patterns:
            self.dropped += len(self._waiting) == MOST_WAITING
            self._waiting.append((rank, line[: 4 * LONGEST_LINE]))

    def take(self, most: int = 2000) -> list[tuple[int, str]]:
        """The lines that match, with their ranks; in the main thread. At most ``most`` lines are looked at."""
        found = []
        for _ in range(most):
            try:
                rank, line = self._waiting.popleft()
            except IndexError:
                break
            text = line.decode(errors="replace")[:LONGEST_LINE]
            if any(self.search(pattern, text) for pattern in self._patterns):
                found.append((rank, text))
        return found


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _raise)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        # A second alarm cannot come: the timer runs once.
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _raise(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise _TooLongError
