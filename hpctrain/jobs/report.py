"""What a run did and what it cost, as numbers and a timeline (pure)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from hpctrain.jobs import accounted as accounts
from hpctrain.jobs.event import SHARED, Event, saved_tier
from hpctrain.jobs.goodput import TRAINING, Goodput, Size, measure
from hpctrain.jobs.incident import Incident
from hpctrain.jobs.incidents import find_incidents
from hpctrain.jobs.records import Metrics, Point
from hpctrain.jobs.status import JobStatus, State, json_value
from hpctrain.jobs.text import count, duration, iso, plural
from hpctrain.slurm.accounting import AccountedJob


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the timeline; ``times`` is how many like events in a row it stands for."""

    time: float
    what: str
    times: int = 1


@dataclass(frozen=True, slots=True)
class Report:
    """See :func:`make_report`. Losses are None where no step has a finite one.

    Attributes:
        bad_loss_steps: points whose loss is NaN or infinite.
        saves: number of checkpoints by tier.
        steps_redone: steps done twice because a restart went back to a checkpoint.
        lost_s: time from the last step before each restart to the first after it, plus the redone steps' time.
        incidents: what failed, what was done about it and how long that took.
        goodput: where the time of the run went, None for a run that was never submitted.
        accounted: the job in Slurm's accounting, None where there is none, or not this job.
        now: until when a running attempt is counted.
    """

    status: JobStatus
    metrics: Metrics
    timeline: tuple[Entry, ...]
    first_loss: float | None = None
    last_loss: float | None = None
    lowest_loss: float | None = None
    bad_loss_steps: int = 0
    first_bad_step: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    step_time_s: float | None = None
    saves: Mapping[str, int] = field(default_factory=dict)
    steps_redone: int = 0
    lost_s: float = 0.0
    incidents: tuple[Incident, ...] = ()
    goodput: Goodput | None = None
    accounted: AccountedJob | None = None
    now: float = 0.0

    @property
    def checkpoints(self) -> int:
        """Checkpoints that were saved to the shared tier."""
        return self.saves.get(SHARED, 0)

    def cost_of(self, incident: Incident) -> float | None:
        """What one failure took, in the unit of ``goodput.size``; None where that is not known."""
        cost = self.goodput.cost.get(incident.number) if self.goodput else None
        return None if cost is None else round(cost, 6)

    def to_json(self, *, max_points: int = 1000) -> dict[str, Any]:
        """Plain JSON; the curve is thinned to about ``max_points``."""
        points = thin(self.metrics.points, max_points)
        return {
            "status": self.status.to_json(),
            "loss": {"first": self.first_loss, "last": self.last_loss, "lowest": self.lowest_loss,
                     "bad_steps": self.bad_loss_steps, "first_bad_step": self.first_bad_step},
            "throughput": {"tokens": self.tokens, "tokens_per_s": json_value(self.tokens_per_s),
                           "step_time_s": self.step_time_s},
            "checkpoints": self.checkpoints, "saves": dict(self.saves),
            "restarts": [
                {"incarnation": r.incarnation, "time": r.time, "last_step": r.last_step, "first_step": r.first_step,
                 "steps_redone": r.steps_redone} for r in self.metrics.restarts
            ],
            "steps_redone": self.steps_redone, "lost_s": self.lost_s,
            "goodput": self.goodput.to_json() if self.goodput else None,
            "accounting": accounts.to_json(self.accounted, self.now) if self.accounted else None,
            "incidents": [{**one.to_json(), "cost": self.cost_of(one)} for one in self.incidents],
            "timeline": [{"time": e.time, "time_iso": iso(e.time), "what": e.what, "times": e.times} for e in self.timeline],
            "curve": [
                {"step": point.step, "loss": json_value(point.loss), "tokens_per_s": json_value(point.tokens_per_s)}
                for point in points
            ],
        }


def make_report(
    status: JobStatus, events: Sequence[Event], metrics: Metrics, *, now: float | None = None, size: Size | None = None,
    accounted: AccountedJob | None = None,
) -> Report:
    """Put status, events and metrics of one run together.

    Args:
        now: until when time is counted for a run that has not ended; without it, until the last trace of the run.
        size: what the job holds, for what failures cost.
        accounted: the job in Slurm's accounting.
    """
    points = metrics.points
    losses = [point.loss for point in points if point.loss is not None and math.isfinite(point.loss)]
    bad = [point.step for point in points if point.loss is not None and not math.isfinite(point.loss)]
    rates = [point.tokens_per_s for point in points if point.tokens_per_s is not None and math.isfinite(point.tokens_per_s)]
    times = [point.step_time_s for point in points if point.step_time_s is not None]
    step_time_s = median(times) if times else None
    redone = sum(restart.steps_redone for restart in metrics.restarts)
    lost = sum(max(0.0, restart.time - restart.last_time) for restart in metrics.restarts) + redone * (step_time_s or 0.0)
    incidents = tuple(find_incidents(events, metrics.restarts))
    return Report(
        status=status, metrics=metrics, timeline=tuple(make_timeline(events)), incidents=incidents,
        accounted=accounted, now=now or status.ended_time or (events[-1].time if events else 0.0),
        goodput=_goodput(status, events, incidents, metrics, now=now, size=size or Size()),
        first_loss=losses[0] if losses else None, last_loss=losses[-1] if losses else None,
        lowest_loss=min(losses, default=None), bad_loss_steps=len(bad), first_bad_step=bad[0] if bad else None,
        tokens=points[-1].tokens if points else None, tokens_per_s=median(rates) if rates else None, step_time_s=step_time_s,
        saves=dict(Counter(tier for event in events if (tier := saved_tier(event)))), steps_redone=redone, lost_s=lost,
    )


def _goodput(
    status: JobStatus, events: Sequence[Event], incidents: Sequence[Incident], metrics: Metrics, *, now: float | None,
    size: Size,
) -> Goodput | None:
    traces = [event.time for event in events[-1:]] + [point.time for point in metrics.points[-1:]]
    begun = status.submitted_time if status.submitted_time is not None else next((event.time for event in events), None)
    # Where nobody knows what became of the job, time has not gone on for it.
    until = status.ended_time if status.final else now if status.state is not State.UNKNOWN else None
    until = until if until is not None else max(traces, default=None)
    if begun is None or until is None or until <= begun:
        return None
    return measure(events, incidents, metrics, submitted=begun, until=until, size=size)


def thin(points: Sequence[Point], limit: int) -> list[Point]:
    """At most about ``limit`` evenly spaced points, the first and the last among them."""
    if len(points) <= limit:
        return list(points)
    stride = len(points) / (limit - 1)
    return [points[int(index * stride)] for index in range(limit - 1)] + [points[-1]]


def averaged(points: Sequence[Point], bins: int) -> tuple[list[float], list[float]]:
    """(steps, mean finite losses) of about ``bins`` equal parts: a curve without the noise that no screen can show."""
    usable = [(p.step, p.loss) for p in points if p.loss is not None and math.isfinite(p.loss)]
    if len(usable) <= bins:
        return [float(step) for step, _ in usable], [loss for _, loss in usable]
    low, high = usable[0][0], usable[-1][0]
    sums: dict[int, list[float]] = {}
    for step, loss in usable:
        cell = sums.setdefault(min(bins - 1, (step - low) * bins // max(1, high - low)), [0.0, 0.0, 0.0])
        cell[0] += step
        cell[1] += loss
        cell[2] += 1
    return [cell[0] / cell[2] for cell in sums.values()], [cell[1] / cell[2] for cell in sums.values()]


def make_timeline(events: Sequence[Event]) -> list[Entry]:
    """The events worth a line; runs of saves, and one event told by several nodes, become one line."""
    entries: list[Entry] = []
    saves: list[Event] = []
    nodes: list[str] = []
    for index, event in enumerate(events):
        following = events[index + 1].kind if index + 1 < len(events) else ""
        if event.kind == "checkpoint.saved":
            saves.append(event)
            after = events[index + 1] if following else None
            if after is None or after.kind != event.kind or saved_tier(after) != saved_tier(event):
                entries.append(_saves(saves))
                saves = []
        elif event.kind in ("ranks.started", "ranks.stopped"):
            nodes.append(event.node)
            if following != event.kind:
                verb = event.kind.partition(".")[2]
                entries.append(Entry(event.time, f"ranks {verb} on {_nodes(nodes)}", len(nodes)))
                nodes = []
        else:
            entries.append(Entry(event.time, sentence(event)))
    return entries


_TITLES = {
    "job.submitted": "submitted", "job.started": "job started", "job.finished": "job finished", "job.failed": "job failed",
    "job.requeued": "job requeued", "job.cancelled": "cancelled", "job.stop_requested": "asked to save and stop",
    "rank.failed": "a rank failed", "node.lost": "node lost", "trainer.started": "training loop began",
    "trainer.finished": "all steps done", "step.first": "first step", "checkpoint.saved": "checkpoint saved",
    "checkpoint.restored": "restored from a checkpoint", "checkpoint.skipped": "checkpoint passed over",
    "checkpoint.failed": "checkpoint failed", "checkpoint.degraded": "checkpoints degraded",
    "checkpoint.recovered": "checkpoints work again", "checkpoint.schedule": "checkpoint interval",
    "checkpoint.flushed": "memory saved", "data.prepared": "data prepared", "model.saved": "model saved",
    "fault.detected": "fault", "recovery.started": "recovery", "recovery.finished": "training again",
    "agent.started": "agent started", "agent.lost_coordinator": "agent lost the coordinator",
    "node.excluded": "node excluded", "hang.stacks": "stacks written", "loss.bad": "bad loss", "log.rule": "log rule",
    "detection.alert": "alert",
}


def sentence(event: Event) -> str:
    """An event as one phrase: what, at which step, where, why."""
    if event.kind in _TELL_THEMSELVES and event.reason:
        return event.reason
    words = _TITLES.get(event.kind, event.kind) + _to_tier(event)
    where = f" on {event.node}" if event.node and event.kind not in _ONE_PER_JOB else ""
    at = f" at step {event.step}" if event.step is not None and event.kind != "step.first" else ""
    return f"{words}{at}{where}" + (f": {event.reason}" if event.reason else "")


_ONE_PER_JOB = (
    "trainer.started", "step.first", "data.prepared", "model.saved", "job.started", "checkpoint.saved",
    "checkpoint.restored", "checkpoint.skipped", "checkpoint.failed", "checkpoint.schedule", "checkpoint.flushed",
)
"""Only one process of a job reports these; its node is no news."""
_TELL_THEMSELVES = (
    "checkpoint.peer", "drill.caused", "ranks.started", "ranks.stopped", "trainer.finished", "job.cancelled",
)
"""Events whose reason says all that a title would."""


def _saves(saves: Sequence[Event]) -> Entry:
    steps = [event.step for event in saves if event.step is not None]
    where = _to_tier(saves[0])
    if len(saves) == 1:
        return Entry(saves[0].time, f"checkpoint saved{where}" + (f" at step {steps[0]}" if steps else ""))
    between = f", steps {steps[0]} to {steps[-1]}" if steps else ""
    return Entry(saves[-1].time, f"{len(saves)} checkpoints saved{where}{between}", len(saves))


def _to_tier(event: Event) -> str:
    tier = saved_tier(event) if event.kind == "checkpoint.saved" else ""
    return f" to {tier}" if tier not in ("", SHARED) else ""


def _nodes(names: Sequence[str]) -> str:
    unique = list(dict.fromkeys(name for name in names if name))
    return ", ".join(unique) if len(unique) <= 4 else plural(len(unique), "node")


def summary_lines(report: Report) -> list[tuple[str, str]]:
    """(label, text) pairs of the numbers."""
    from hpctrain.jobs.text import loss

    status = report.status
    rows: list[tuple[str, str]] = []
    if status.step is not None:
        share = f" ({status.step / status.total_steps:.0%})" if status.total_steps else ""
        rows.append(("Steps", f"{status.step}" + (f" of {status.total_steps}" if status.total_steps else "") + share))
    if report.last_loss is not None:
        newest = report.metrics.points[-1].loss
        last = loss(newest) if newest is not None else loss(report.last_loss)
        rows.append(("Loss", f"{loss(report.first_loss)} at first, {last} at last, {loss(report.lowest_loss)} at lowest"))
    if report.bad_loss_steps:
        about = "about " if report.metrics.sampled else ""
        steps = plural(report.bad_loss_steps, "step")
        rows.append(("", f"{about}{steps} with a NaN or infinite loss, the first at step {report.first_bad_step}"))
    speed = [f"{count(report.tokens_per_s)} tokens/s"] if report.tokens_per_s is not None else []
    speed += [f"{report.step_time_s:.3g} s per step"] if report.step_time_s is not None else []
    if speed:
        rows.append(("Speed", ", ".join(speed) + " (medians)"))
    if report.tokens is not None:
        rows.append(("Tokens", count(report.tokens)))
    times = [f"{duration(status.queued_s)} in the queue"] if status.queued_s is not None else []
    times += [f"{duration(status.elapsed_s)} since the first start"] if status.elapsed_s is not None else []
    rows.append(("Time", ", ".join(times) or "-"))
    others = "".join(f", {number} to {tier}" for tier, number in sorted(report.saves.items()) if tier != SHARED)
    rows.append(("Saves", plural(report.checkpoints, "checkpoint") + others))
    rows.append(("Restarts", _restarts(report)))
    rows += accounts.lines(report.accounted, report.now) if report.accounted else []
    return rows + (goodput_lines(report.goodput) if report.goodput else [])


def goodput_lines(goodput: Goodput) -> list[tuple[str, str]]:
    """(label, text) pairs of where the time went."""
    if goodput.ettr is None or not goodput.seconds.get(TRAINING):
        return []
    share = f"; {goodput.goodput:.1%} of the time on nodes" if goodput.goodput is not None else ""
    rows = [("Goodput", f"{goodput.ettr:.1%} of all time was training that counts{share}")]
    if goodput.lowest_hour is not None:
        rows.append(("", f"last hour {goodput.sliding[-1][1]:.1%}, lowest hour {goodput.lowest_hour[1]:.1%}"))
    spent = [(value, name.replace("_", " ")) for name, value in goodput.seconds.items() if value >= 0.05]
    spent.sort(reverse=True)
    rows.append(("Spent", ", ".join(f"{name} {duration(value)}" for value, name in spent)))
    if goodput.total_cost is not None:
        failures = f", {sum(goodput.cost.values()):.3g} of them for failures" if goodput.cost else ""
        rows.append(("Cost", f"{goodput.total_cost:.3g} {goodput.size.unit}{failures}"))
    return rows


def _restarts(report: Report) -> str:
    if not report.status.restarts:
        return "none"
    text = f"{report.status.restarts}"
    if report.metrics.restarts:
        text += f"; {plural(report.steps_redone, 'step')} done again, {duration(report.lost_s)} lost in all"
    return text
