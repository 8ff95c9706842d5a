"""A clock that a test moves by hand."""

from __future__ import annotations


class FakeClock:
    """A :class:`hpctrain.clock.Clock` on which sleeping takes no time.

    Args:
        now: the first answer of :meth:`time`, seconds since the epoch.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.sleeps: list[float] = []

    def time(self) -> float:
        """Seconds since the epoch."""
        return self.now

    def monotonic(self) -> float:
        """The same count; a test may also jump it with :meth:`advance`."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Advance at once and remember that somebody waited."""
        self.sleeps.append(seconds)
        self.now += seconds

    def advance(self, seconds: float) -> None:
        """Let time pass (or jump back, with a negative number)."""
        self.now += seconds
