"""What saves cost, how often machines fail, and what follows from both (pure).

The formulas are those of Young (1974) and Daly (2006), for a job that saves every tau seconds, stands still for C seconds at
each save, and fails every M seconds on average.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

NODE_FAILURES_PER_DAY = 6.5 / 1000
"""Of one node: what a large research cluster has published (Kokolis et al. 2024, RSC-1): a prior."""

_REMEMBERED = 5


def young_s(stall_s: float, mttf_s: float) -> float:
    """First-order optimum of the time between two saves, the stall included."""
    return math.sqrt(2 * stall_s * mttf_s)


def daly_s(stall_s: float, mttf_s: float) -> float:
    """Higher-order optimum of the working time between two saves, for exponentially distributed failures.

    From ``2 * mttf_s`` of stall on there is none: then Daly advises the mean time between failures itself.
    """
    if stall_s >= 2 * mttf_s:
        return mttf_s
    ratio = stall_s / (2 * mttf_s)
    return young_s(stall_s, mttf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - stall_s


def waste(interval_s: float, stall_s: float, mttf_s: float, restart_s: float = 0.0) -> float:
    """First-order share of the time that is lost to saves, to work done twice, and to restarts."""
    return stall_s / interval_s + (interval_s / 2 + restart_s) / mttf_s


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one save to a tier.

    Attributes:
        stall_s: seconds that training stands still.
        persist_s: seconds until it is safe in the tier; the next one cannot begin before.
    """

    stall_s: float
    persist_s: float = 0.0


@dataclass(slots=True)
class CostMeter:
    """The cost of a tier's last few saves; their median, since one that was disturbed says little."""

    _stalls: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    _persists: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    def stalled(self, seconds: float) -> None:
        """A save has held training up for so long. Leave out those that had to allocate memory first."""
        self._stalls.append(seconds)

    def persisted(self, seconds: float) -> None:
        """It was safe after so long."""
        self._persists.append(seconds)

    def cost(self) -> Cost | None:
        """None before the stall of a save was measured."""
        if not self._stalls:
            return None
        return Cost(statistics.median(self._stalls), statistics.median(self._persists or [0.0]))


PLANNED = ("stop was requested", "the ranks end")
"""Why the last checkpoint of a start was saved that ended in order."""


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What a run has lived through up to a checkpoint; it travels in the checkpoint's ``world["run"]``.

    Attributes:
        failures: starts that did not end in order.
        seconds: of training, all starts together.
    """

    failures: int = 0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """For ``world["run"]``."""
        return {"failures": self.failures, "seconds": round(self.seconds, 1)}

    @classmethod
    def continued(cls, world: Mapping[str, Any], cause: str, *, by_new_start: bool) -> RunHistory:
        """Of a run that continues from a checkpoint; nothing is known from one that says nothing.

        Args:
            world: of the checkpoint.
            cause: why it was saved.
            by_new_start: the ranks were started again since; a rewind within one start is no failure.
        """
        run = world.get("run")
        known = run if isinstance(run, Mapping) else {}
        failed = by_new_start and cause not in PLANNED
        return cls(int(known.get("failures", 0)) + failed, float(known.get("seconds", 0.0)))


@dataclass(frozen=True, slots=True)
class FailureRate:
    """How often this job fails.

    The prior counts as one failure in the time in which it predicts one; what the run has seen is added. So a job that
    fails more often than the prior says is believed after two or three failures, and luck is not taken for reliability.

    Attributes:
        nodes: of the job.
        mttf_s: mean time between failures, if the site knows it; None takes the prior.
        failures: that this run has seen.
        observed_s: seconds that it has run, all starts together.
    """

    nodes: int = 1
    mttf_s: float | None = None
    failures: int = 0
    observed_s: float = 0.0

    def mean_time_s(self) -> float:
        """Expected seconds between failures."""
        if self.mttf_s is not None:
            return self.mttf_s
        prior_s = 86400 / (self.nodes * NODE_FAILURES_PER_DAY)
        return (prior_s + self.observed_s) / (1 + self.failures)
