"""What a job has shown of itself: quantiles of its own recent times (pure)."""

from __future__ import annotations

from collections import deque

RECENT = 200
ENOUGH = 3
"""With fewer samples nothing is known."""
_HIGH = 0.95


class Times:
    """The newest :data:`RECENT` durations of one kind, in seconds."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=RECENT)

    def add(self, seconds: float) -> None:
        """One more; what is negative (a clock was set back) counts as nothing."""
        if seconds > 0:
            self._recent.append(seconds)

    @property
    def known(self) -> bool:
        """There are enough of them."""
        return len(self._recent) >= ENOUGH

    def high(self) -> float:
        """A slow one: the 95 % quantile, or the longest of fewer than twenty; 0 when there is none."""
        ordered = sorted(self._recent)
        return ordered[min(len(ordered) - 1, int(_HIGH * len(ordered)))] if ordered else 0.0

    def longest(self) -> float:
        """The longest; 0 when there is none."""
        return max(self._recent, default=0.0)
