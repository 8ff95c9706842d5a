"""When to save to a tier (pure).

A tier is saved at multiples of a number of steps, every so many seconds, or ``auto``: as often as its measured cost and the
failure rate make it worthwhile. Every decision says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint.schedule_cost import Cost, daly_s

OVERHEAD_CAP = 0.01
"""Share of training time that ``auto`` lets the saves of one tier cost."""

BUSY_CAP = 0.25
"""Share of the time that ``auto`` lets a tier be written to: storage is also there for other jobs, and for restores."""

LONGEST_AUTO_S = 600.0
"""``auto`` saves at least so often: a failure rate is an estimate, and programs fail more often than machines."""

LONGEST_MEMORY_S = 60.0
"""The same for tiers in memory: what costs training milliseconds need not be spared, and a rank that dies of its own bug is
in no failure rate of machines."""

_RETRY_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Decision:
    """To save or not, and why (the reason is shown and stored)."""

    save: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """How far saves are apart: in steps, or in seconds (0: save at the next chance), and why."""

    steps: int | None = None
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TierSchedule:
    """Saves at multiples of ``every_steps``, or once ``every_s`` seconds have passed since the last save; neither: ``auto``.

    Raises:
        ValueError: both are given, or one is not positive.
    """

    every_steps: int | None = None
    every_s: float | None = None

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_s is not None:
            raise ValueError("a tier is saved every so many steps or every so many seconds, not both")
        for name, value in (("every_steps", self.every_steps), ("every_s", self.every_s)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be more than 0, not {value}")

    @property
    def is_auto(self) -> bool:
        """The interval follows from cost and failure rate."""
        return self.every_steps is None and self.every_s is None

    def to_json(self) -> Any:
        """``"auto"`` or an object with the number that is given."""
        if self.is_auto:
            return "auto"
        return {"every_steps": self.every_steps} if self.every_steps is not None else {"every_s": self.every_s}

    @classmethod
    def from_json(cls, value: Any) -> TierSchedule:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: it is something else.
        """
        if value == "auto":
            return cls()
        if not isinstance(value, Mapping) or len(value) != 1 or not set(value) <= {"every_steps", "every_s"}:
            raise ValueError(f'a schedule is "auto", {{"every_steps": N}} or {{"every_s": N}}, not {value!r}')
        steps, seconds = value.get("every_steps"), value.get("every_s")
        for number, kinds in ((steps, (int,)), (seconds, (int, float))):
            if number is not None and (isinstance(number, bool) or not isinstance(number, kinds)):
                raise ValueError(f"{number!r} in a schedule is not a number of {'steps' if number is steps else 'seconds'}")
        return cls(steps, None if seconds is None else float(seconds))

    def interval(
        self, cost: Cost | None, mttf_s: float, overhead_cap: float = OVERHEAD_CAP, longest_s: float = LONGEST_AUTO_S,
    ) -> Interval:
        """How far saves are apart now.

        Args:
            cost: of a save to this tier; None before it was measured.
            mttf_s: mean time between failures of this job.
            overhead_cap: share of training time that the saves may cost; counts for ``auto`` only.
            longest_s: that ``auto`` waits, however rare failures are; only the caps make it wait longer.
        """
        if self.every_steps is not None:
            reason = "every step" if self.every_steps == 1 else f"every {self.every_steps} steps"
            return Interval(self.every_steps, reason=reason)
        if self.every_s is not None:
            return Interval(seconds=self.every_s, reason=f"every {span(self.every_s)}")
        return auto_interval(cost, mttf_s, overhead_cap, longest_s)


def auto_interval(
    cost: Cost | None, mttf_s: float, overhead_cap: float = OVERHEAD_CAP, longest_s: float = LONGEST_AUTO_S,
) -> Interval:
    """The interval with the least expected loss that keeps below the caps; see :meth:`TierSchedule.interval`."""
    if cost is None:
        return Interval(reason="auto: now, to measure what it costs")
    between, stall = span(mttf_s), span(cost.stall_s)
    choices = [
        (daly_s(cost.stall_s, mttf_s), f"Daly for {stall} stall and {between} between failures"),
        (cost.stall_s / overhead_cap, f"{stall} stall costs {100 * overhead_cap:.3g} % of the time"),
        (cost.persist_s / BUSY_CAP, f"{span(cost.persist_s)} of writing take {100 * BUSY_CAP:.3g} % of the time"),
    ]
    seconds, why = max(choices, key=lambda choice: choice[0])
    if seconds > longest_s and why == choices[0][1]:
        seconds, why = max(longest_s, choices[1][0], choices[2][0]), f"the longest that auto waits ({why})"
    return Interval(seconds=seconds, reason=f"auto: every {span(seconds)} = {why}")


def retry_delay_s(failures: int) -> float:
    """Seconds until a save that failed is tried again: at the next step, then after 2, 4, 8 ... 60 s.

    Args:
        failures: saves that failed in a row, at least 1.
    """
    return 0.0 if failures <= 1 else min(2.0 ** min(failures - 1, 10), _RETRY_LIMIT_S)


def span(seconds: float) -> str:
    """A duration with two or three digits, in the unit that people would use."""
    if math.isinf(seconds):
        return "an infinite time"
    for unit, size, first in (("d", 86400.0, 2), ("h", 3600.0, 2), ("min", 60.0, 10)):
        if seconds >= first * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 0.001 or seconds == 0 else f"{seconds * 1000:.2g} ms"

