"""How fast it goes and when it will be done (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hpctrain.jobs.records import Point

WINDOW = 100
"""Newest steps that speed is measured over: long enough to hold some saves, short enough to follow a change."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed over the newest steps of one incarnation.

    Attributes:
        seconds_per_step: wall clock, with what lies between steps (saves, evaluation), None while unknown.
        step_time_s: median duration of a step alone.
        tokens_per_s: median.
    """

    seconds_per_step: float | None = None
    step_time_s: float | None = None
    tokens_per_s: float | None = None


def pace(points: Sequence[Point]) -> Pace:
    """Measure the newest points, which are of one incarnation and in order."""
    recent = points[-WINDOW:]
    step_times = [point.step_time_s for point in recent if point.step_time_s is not None]
    rates = [point.tokens_per_s for point in recent if point.tokens_per_s is not None]
    typical = median(step_times) if step_times else None
    steps = recent[-1].step - recent[0].step if recent else 0
    elapsed = recent[-1].time - recent[0].time if recent else 0.0
    wall = elapsed / steps if steps > 0 and elapsed > 0 else typical
    return Pace(wall, typical, median(rates) if rates else None)


def remaining_s(speed: Pace, step: int | None, total_steps: int | None, *, since_last_step_s: float = 0.0) -> float | None:
    """Seconds to the last step at the present speed, None while that cannot be said.

    Args:
        since_last_step_s: time already spent on the step under way; never takes off more than that one step.
    """
    if step is None or total_steps is None or speed.seconds_per_step is None:
        return None
    under_way = min(max(0.0, since_last_step_s), speed.seconds_per_step)
    return max(0.0, (total_steps - step) * speed.seconds_per_step - under_way) if step < total_steps else 0.0
