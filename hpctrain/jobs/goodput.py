"""How much of a run's time was training whose result lives on, and what the rest went to (pure).

Definitions:

- *Productive* time is the time of completed steps whose result is in the final model: work that a restart did again counts
  once. Time between steps (copying and writing checkpoints, validation) is not productive.
- *ETTR*, effective training time ratio: productive time divided by the time since the job could first have run, waiting in
  the queue included. The definition is that of "Revisiting Reliability in Large-Scale Machine Learning Research Clusters"
  (Kokolis et al., 2024, arXiv 2410.21680): productive runtime over available wall-clock time.
- *Goodput*: productive time divided by the time for which the job held its nodes. It leaves the queue out, and so says what
  was made of the nodes that were paid for.
- *Sliding ETTR*: the same ratio over the last hour, as "Robust LLM Training Infrastructure at ByteDance" (2025, ByteRobust)
  reports beside the cumulative one: it shows when a run was ill, which an average over weeks hides.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hpctrain.jobs.event import RUN_ENDS, Event
from hpctrain.jobs.incident import Incident
from hpctrain.jobs.records import Metrics, Restart

TRAINING, BETWEEN, REDONE, RECOVERY, STARTUP, QUEUE, OTHER = (
    "training", "between_steps", "redone", "recovery", "start_up", "queue", "other",
)
CATEGORIES: Mapping[str, str] = {
    TRAINING: "steps whose result lives on",
    BETWEEN: "checkpoints and validation between steps",
    REDONE: "work that was lost and done again",
    RECOVERY: "from faults to the first new step",
    STARTUP: "until the first step",
    QUEUE: "in the queue",
    OTHER: "after the last step, and what nothing tells of",
}
WINDOW_S = 3600.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a run's time that was spent in one way."""

    start: float
    end: float
    category: str

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Size:
    """What a job holds while it runs; GPUs are 0 on clusters without any."""

    nodes: int = 0
    gpus: int = 0

    @property
    def unit(self) -> str:
        """What costs are counted in."""
        return "GPU-hours" if self.gpus else "node-hours"

    def hours(self, seconds: float) -> float | None:
        """So much time on all of it, in :attr:`unit`; None where the size is not known."""
        held = self.gpus or self.nodes
        return held * seconds / 3600.0 if held else None


@dataclass(frozen=True, slots=True)
class Goodput:
    """See the module's docstring for the words.

    Attributes:
        segments: the whole time from submission to the end, or until now, without gaps.
        seconds: time of each category.
        ettr, goodput: between 0 and 1; None before there is any time to divide by.
        sliding: (time, ETTR of the hour before it) at the end of every part of an hour, oldest first.
        lost_steps: steps done twice.
        cost: of what failures took, by number of the incident, in ``size.unit``.
        measured: there are metrics of single steps; without them training is what was no recovery.
    """

    segments: tuple[Segment, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    ettr: float | None = None
    goodput: float | None = None
    sliding: tuple[tuple[float, float], ...] = ()
    lost_steps: int = 0
    size: Size = Size()
    cost: Mapping[int, float] = field(default_factory=dict)
    measured: bool = True

    @property
    def lost_s(self) -> float:
        """Time that failures took: recovering, and work done again."""
        return self.seconds.get(RECOVERY, 0.0) + self.seconds.get(REDONE, 0.0)

    @property
    def total_cost(self) -> float | None:
        """Of everything that the job held its nodes for."""
        held = sum(seconds for category, seconds in self.seconds.items() if category != QUEUE)
        return self.size.hours(held)

    @property
    def lowest_hour(self) -> tuple[float, float] | None:
        """(time, ETTR) of the worst hour."""
        return min(self.sliding, key=lambda pair: pair[1], default=None)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "ettr": _rounded(self.ettr), "goodput": _rounded(self.goodput), "lost_steps": self.lost_steps,
            "lost_s": round(self.lost_s, 3), "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "sliding_hour": [{"time": round(time, 3), "ettr": round(value, 4)} for time, value in self.sliding],
            "unit": self.size.unit, "cost": _rounded(self.total_cost),
            "cost_of_failures": round(sum(self.cost.values()), 4) if self.cost else 0.0,
            "measured": self.measured,
        }


def measure(
    events: Sequence[Event], incidents: Sequence[Incident], metrics: Metrics, *, submitted: float, until: float, size: Size,
) -> Goodput:
    """Divide the time of a run.

    Args:
        submitted: when the job could first have run.
        until: its end, or now, in seconds since the epoch.
    """
    queues = _queues(events, submitted, until)
    raw = _from_metrics(metrics, incidents) if metrics.points else _from_incidents(events, incidents, until)
    segments = _fill(_clip(raw, queues, submitted, until), events, submitted, until)
    seconds = {name: sum(part.seconds for part in segments if part.category == name) for name in CATEGORIES}
    held = sum(value for name, value in seconds.items() if name != QUEUE)
    total = until - submitted
    lost_steps = sum(restart.steps_redone for restart in metrics.restarts)
    return Goodput(
        segments=tuple(segments), seconds=seconds, ettr=seconds[TRAINING] / total if total > 0 else None,
        goodput=seconds[TRAINING] / held if held > 0 else None, sliding=_sliding(segments), lost_steps=lost_steps,
        size=size, cost=_costs(incidents, segments, size, until), measured=bool(metrics.points),
    )


# -- where time went, in the order of time ---------------------------------------------------------------------------


def _from_metrics(metrics: Metrics, incidents: Sequence[Incident]) -> list[Segment]:
    """Training, time between steps, lost work and recoveries, as the steps of rank 0 tell them."""
    restarts = sorted(metrics.restarts, key=lambda restart: restart.time)
    points = metrics.points
    first = points[0]
    found = [Segment(first.time - (first.step_time_s or 0.0), first.time, TRAINING)]
    for before, after in pairwise(points):
        between = [restart for restart in restarts if before.time < restart.time <= after.time]
        if not between or after.incarnation == before.incarnation:
            found += _steps(before.time, after.time, after.step - before.step, after.step_time_s)
            continue
        left, left_step = before.time, before.step
        for restart in between:
            found += _around(restart, incidents, left, left_step)
            left, left_step = restart.time, restart.first_step
        found += _steps(left, after.time, after.step - left_step, after.step_time_s)
    for restart in restarts:
        if restart.time <= first.time:
            # Every step before was done again: nothing of the first start lives on.
            found = [part for part in _around(restart, incidents, restart.last_time, restart.last_step)
                     if part.category != TRAINING] + found
    return found + _after_last(points[-1].time, incidents)


def _steps(start: float, end: float, count: int, step_time_s: float | None) -> list[Segment]:
    """Steps of one incarnation: what is not their own time lies between them."""
    if end <= start or count <= 0:
        return []
    own = min(end - start, count * step_time_s) if step_time_s is not None else end - start
    return [Segment(start, end - own, BETWEEN), Segment(end - own, end, TRAINING)]


def _around(restart: Restart, incidents: Sequence[Incident], left: float, left_step: int) -> list[Segment]:
    """From the last step that lives on, over the fault, to the first new one."""
    done = restart.last_step - left_step
    each = (restart.last_time - left) / done if done > 0 else 0.0
    lost_from = max(left, restart.last_time - restart.steps_redone * each)
    faults = [one.fault_time for one in incidents if restart.last_time - 1.0 <= one.fault_time <= restart.time]
    fault = min([max(time, restart.last_time) for time in faults], default=restart.last_time)
    return [
        Segment(left, lost_from, TRAINING), Segment(lost_from, restart.last_time, REDONE),
        # The step that was being computed is lost, whatever checkpoint there was.
        Segment(restart.last_time, fault, REDONE), Segment(fault, restart.time, RECOVERY),
    ]


def _after_last(time: float, incidents: Iterable[Incident]) -> list[Segment]:
    """A failure that no new step has followed."""
    later = [one for one in incidents if one.fault_time >= time - 1.0 and one.mended_time is None]
    return [Segment(max(time, one.fault_time), one.ended_time or float("inf"), RECOVERY) for one in later]


def _from_incidents(events: Sequence[Event], incidents: Sequence[Incident], until: float) -> list[Segment]:
    """Without metrics: what runs is training unless it is a recovery."""
    begun = next((event.time for event in events if event.kind in ("step.first", "ranks.started")), None)
    ended = next((event.time for event in reversed(events) if event.kind in RUN_ENDS), until)
    if begun is None:
        return []
    found, left = [], begun
    for one in incidents:
        right = one.mended_time or one.ended_time or until
        if right > left:
            fault = max(left, one.fault_time)
            found += [Segment(left, fault, TRAINING), Segment(fault, right, RECOVERY)]
            left = right
    return [*found, Segment(left, max(left, ended), TRAINING)]


def _queues(events: Sequence[Event], submitted: float, until: float) -> list[Segment]:
    """Submission to the first start, and every requeue to the next one."""
    found: list[Segment] = []
    waiting: float | None = submitted
    for event in events:
        if event.kind == "job.started" and waiting is not None:
            found.append(Segment(waiting, event.time, QUEUE))
            waiting = None
        elif event.kind == "job.requeued":
            waiting = event.time
        elif event.kind in ("job.failed", "job.finished", "job.cancelled"):
            waiting = None
    return found if waiting is None else [*found, Segment(waiting, until, QUEUE)]


def _clip(raw: Iterable[Segment], queues: Sequence[Segment], submitted: float, until: float) -> list[Segment]:
    """All stretches in order, none over another: queues come first, then what begins earlier."""
    found: list[Segment] = [part for part in queues if part.seconds > 0]
    for part in sorted(raw, key=lambda part: part.start):
        pieces = [Segment(max(part.start, submitted), min(part.end, until), part.category)]
        for taken in queues:
            pieces = [rest for piece in pieces for rest in _without(piece, taken)]
        found += [piece for piece in pieces if piece.seconds > 0]
    found.sort(key=lambda part: (part.start, part.end))
    clean: list[Segment] = []
    for part in found:
        start = max(part.start, clean[-1].end) if clean else part.start
        if part.end > start:
            clean.append(Segment(start, part.end, part.category))
    return clean


def _without(piece: Segment, taken: Segment) -> list[Segment]:
    if taken.end <= piece.start or taken.start >= piece.end:
        return [piece]
    return [Segment(piece.start, taken.start, piece.category), Segment(taken.end, piece.end, piece.category)]


def _fill(parts: Sequence[Segment], events: Sequence[Event], submitted: float, until: float) -> list[Segment]:
    """Give the gaps their names, so that the parts cover everything."""
    found: list[Segment] = []
    place = submitted
    trained = False
    end = next((event.time for event in reversed(events) if event.kind in RUN_ENDS), until)
    last = max((part.end for part in parts if part.category == TRAINING), default=None)
    for part in [*parts, Segment(until, until, OTHER)]:
        if part.start > place:
            waiting = not trained if last is not None else place < end
            found.append(Segment(place, part.start, STARTUP if waiting else OTHER))
        if part.seconds > 0:
            found.append(part)
        trained = trained or part.category == TRAINING
        place = max(place, part.end)
    return _joined(found)


def _joined(parts: Iterable[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for part in parts:
        if joined and joined[-1].category == part.category and abs(joined[-1].end - part.start) < 1e-9:
            joined[-1] = Segment(joined[-1].start, part.end, part.category)
        else:
            joined.append(part)
    return joined


# -- figures out of it -----------------------------------------------------------------------------------------------


def _sliding(segments: Sequence[Segment], parts: int = 12) -> tuple[tuple[float, float], ...]:
    """The ratio of the hour before each twelfth of an hour, from the end of the first hour on."""
    if not segments or segments[-1].end - segments[0].start < WINDOW_S:
        return ()
    bounds, sums = [segments[0].start], [0.0]
    for part in segments:
        bounds.append(part.end)
        sums.append(sums[-1] + (part.seconds if part.category == TRAINING else 0.0))

    def trained_before(time: float) -> float:
        index = min(max(0, bisect_right(bounds, time) - 1), len(segments) - 1)
        within = min(max(0.0, time - segments[index].start), segments[index].seconds)
        return sums[index] + (within if segments[index].category == TRAINING else 0.0)

    start, end = segments[0].start, segments[-1].end
    stride = max(WINDOW_S / parts, (end - start) / 2000)
    count = int((end - start - WINDOW_S) / stride)
    times = sorted({*(start + WINDOW_S + index * stride for index in range(count + 1)), end})
    return tuple((time, (trained_before(time) - trained_before(time - WINDOW_S)) / WINDOW_S) for time in times)


def _costs(incidents: Sequence[Incident], segments: Sequence[Segment], size: Size, until: float) -> dict[int, float]:
    """What each failure took: its recovery and the work that was lost just before it, without the queue, on all nodes."""
    costs: dict[int, float] = {}
    lost = [part for part in segments if part.category in (REDONE, RECOVERY)]
    for index, one in enumerate(incidents):
        end = one.mended_time or one.ended_time or until
        earlier = [other.mended_time or other.ended_time or other.fault_time for other in incidents[:index]]
        left = max(earlier, default=float("-inf"))
        seconds = sum(max(0.0, min(part.end, end) - max(part.start, left)) for part in lost)
        if (hours := size.hours(seconds)) is not None:
            costs[one.number] = hours
    return costs


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
