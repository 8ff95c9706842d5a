"""What jobs used, and what was lost of it (pure).

Hours are counted from attempts: the time for which one ran inside the window, times what it held. What became of them is
*measured* for runs whose directories can be read (:mod:`hpctrain.jobs.goodput` divides their time), and told from the way
an attempt ended for all others:

============  ======================================================================================================
part          hours of
============  ======================================================================================================
training      measured runs: steps whose result lives on
between       measured runs: checkpoints and validation between steps
redone        measured runs: work that was lost and done again
recovery      measured runs: from faults to the first new step
start_up      measured runs: until the first step
other         measured runs: after the last step, and what nothing tells of
completed     other attempts that ended well
running       other attempts that have not ended
cancelled     other attempts that somebody ended
failed        other attempts that ended as FAILED, NODE_FAIL, TIMEOUT, OUT_OF_MEMORY, ...
requeued      other attempts that were followed by another; how much of them a checkpoint kept is not known
============  ======================================================================================================

Lost *to failures* are redone, recovery and failed; *to requeues* requeued; *to idling on nodes* start_up and other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.ids import JobId
from hpctrain.jobs.goodput import BETWEEN, OTHER, QUEUE, RECOVERY, REDONE, STARTUP, TRAINING, Segment
from hpctrain.slurm.accounting import AccountedJob, Attempt
from hpctrain.slurm.model import JobState

BY = ("run", "user", "account", "partition", "qos", "state")
MEASURED = (TRAINING, BETWEEN, REDONE, RECOVERY, STARTUP, OTHER)
TOLD = ("completed", "running", "cancelled", "failed", "requeued")
PARTS = (*MEASURED, *TOLD)
LOST: Mapping[str, tuple[str, ...]] = {
    "failures": (REDONE, RECOVERY, "failed"), "requeues": ("requeued",), "idle": (STARTUP, OTHER),
}
MARK = "hpctrain:"
"""What the comment of every job that hpctrain submits starts with; the run's name follows."""

Key = tuple[JobId, float | None]


@dataclass(frozen=True, slots=True)
class Hours:
    """GPU-hours, CPU-hours and node-hours of the same time."""

    gpu: float = 0.0
    cpu: float = 0.0
    node: float = 0.0

    def __add__(self, other: Hours) -> Hours:
        """The sum of each."""
        return Hours(self.gpu + other.gpu, self.cpu + other.cpu, self.node + other.node)

    def __mul__(self, share: float) -> Hours:
        """So much of each."""
        return Hours(self.gpu * share, self.cpu * share, self.node * share)

    def to_json(self) -> dict[str, float]:
        """Plain JSON, to a second's worth."""
        return {"gpu_hours": round(self.gpu, 4), "cpu_hours": round(self.cpu, 4), "node_hours": round(self.node, 4)}


@dataclass(frozen=True, slots=True)
class Row:
    """What the jobs of one user, account, ... used.

    Attributes:
        jobs: jobs with an attempt in the window; one that was queued again is one.
        attempts: their attempts in the window.
        requeues: how many of these were followed by another.
        starts: how many of these have started.
        queue_s: seconds in the window for which jobs waited while they could have run.
        outcomes: attempts by Slurm's word for how they stand or ended.
        parts: all hours, divided as the module's docstring says.
    """

    key: str
    jobs: int = 0
    attempts: int = 0
    requeues: int = 0
    starts: int = 0
    queue_s: float = 0.0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    parts: Mapping[str, Hours] = field(default_factory=dict)

    def sum_of(self, parts: Iterable[str]) -> Hours:
        """Hours of these parts together."""
        return sum((self.parts[part] for part in parts if part in self.parts), Hours())

    @property
    def hours(self) -> Hours:
        """All of them."""
        return self.sum_of(PARTS)

    @property
    def measured(self) -> Hours:
        """Those of runs whose directories were read."""
        return self.sum_of(MEASURED)

    @property
    def goodput(self) -> float | None:
        """The share of the measured hours that was training that lives on; None where nothing was measured."""
        all_, good = self.measured, self.parts.get(TRAINING, Hours())
        if all_.gpu > 0:
            return good.gpu / all_.gpu
        return good.node / all_.node if all_.node > 0 else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {
            "key": self.key, "jobs": self.jobs, "attempts": self.attempts, "requeues": self.requeues, "starts": self.starts,
            "queue_s": round(self.queue_s, 1), **self.hours.to_json(), "outcomes": dict(sorted(self.outcomes.items())),
            "measured": self.measured.to_json(), "goodput": None if self.goodput is None else round(self.goodput, 4),
            "lost": {name: self.sum_of(parts).to_json() for name, parts in LOST.items()},
            "parts": {part: self.parts[part].to_json() for part in PARTS if part in self.parts},
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """See :func:`measure_usage`. Rows with the most hours come first."""

    since: float
    until: float
    by: str
    rows: tuple[Row, ...]
    total: Row

    @property
    def unit(self) -> str:
        """What to show where only one thing fits: GPU-hours where there are any."""
        return "GPU-hours" if self.total.hours.gpu > 0 else "CPU-hours" if self.total.hours.cpu > 0 else "node-hours"

    def in_unit(self, hours: Hours) -> float:
        """Hours in :attr:`unit`."""
        return {"GPU-hours": hours.gpu, "CPU-hours": hours.cpu}.get(self.unit, hours.node)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known beside the accounts.

    Attributes:
        names: run names of jobs, by :func:`key_of`.
        segments: how the time of measured runs was spent, by :func:`key_of`.
        runaways: jobs that run only in the database; their hours are nobody's and are not counted.
    """

    names: Mapping[Key, str] = field(default_factory=dict)
    segments: Mapping[Key, Sequence[Segment]] = field(default_factory=dict)
    runaways: frozenset[JobId] = frozenset()


def key_of(job: AccountedJob) -> Key:
    """What tells jobs apart that got the same number one after the other."""
    return job.job_id, job.submit_time


def run_name(job: AccountedJob, names: Mapping[Key, str]) -> str:
    """The run that a job belongs to; a job that is none of ours counts under its own name."""
    found = names.get(key_of(job))
    if found:
        return found
    comment = job.newest.comment
    return comment[len(MARK):] if comment.startswith(MARK) else job.name


def measure_usage(jobs: Iterable[AccountedJob], *, since: float, until: float, by: str, facts: Facts | None = None) -> Usage:
    """Add up what jobs used in a window that ends no later than now.

    Args:
        by: one of :data:`BY`. A job whose attempts differ in it counts in several rows, and once in the total.
    """
    facts = facts or Facts()
    cells = _Cells(since, until, facts)
    for job in jobs:
        name = run_name(job, facts.names)
        cells.take(job, lambda attempt, name=name: name if by == "run" else _key(attempt, by))  # type: ignore[misc]
    rows = [cells.row(key) for key in cells.keys]
    rows.sort(key=lambda row: (-row.hours.gpu, -row.hours.cpu, -row.hours.node, -row.jobs, row.key))
    return Usage(since, until, by, tuple(rows), cells.total())


def _key(attempt: Attempt, by: str) -> str:
    value = attempt.outcome if by == "state" else getattr(attempt, by)
    return str(value) or "(none)"


class _Cells:
    """Sums while they grow."""

    def __init__(self, since: float, until: float, facts: Facts) -> None:
        self._since, self._until, self._facts = since, until, facts
        self._jobs: dict[str, set[Key]] = {}
        self._counts: dict[str, Counter[str]] = {}
        self._outcomes: dict[str, Counter[str]] = {}
        self._parts: dict[str, dict[str, Hours]] = {}
        self._waited: dict[str, float] = {}

    @property
    def keys(self) -> list[str]:
        """Rows so far."""
        return list(self._jobs)

    def take(self, job: AccountedJob, key_for: Callable[[Attempt], str]) -> None:
        """Add one job."""
        shares = _shares(self._facts.segments.get(key_of(job), ()), self._since, self._until)
        for index, attempt in enumerate(job.attempts):
            if not self._touches(attempt):
                continue
            key, followed = key_for(attempt), index + 1 < len(job.attempts)
            self._jobs.setdefault(key, set()).add(key_of(job))
            counts = self._counts.setdefault(key, Counter())
            counts["attempts"] += 1
            counts["requeues"] += followed
            counts["starts"] += attempt.ran
            self._outcomes.setdefault(key, Counter())[attempt.outcome] += 1
            self._waited[key] = self._waited.get(key, 0.0) + self._wait(attempt)
            runaway = attempt.live and attempt.job_id in self._facts.runaways
            hours = Hours() if runaway else _hours(attempt, self._since, self._until)
            parts = self._parts.setdefault(key, {})
            for part, share in (shares or {_told(attempt, followed=followed): 1.0}).items():
                parts[part] = parts.get(part, Hours()) + hours * share

    def row(self, key: str) -> Row:
        """One finished row."""
        return self._row(key, self._jobs[key], [key])

    def total(self) -> Row:
        """All rows together; a job in several of them counts once."""
        return self._row("total", set().union(*self._jobs.values()), self.keys)

    def _row(self, name: str, jobs: set[Key], keys: Sequence[str]) -> Row:
        counts: Counter[str] = sum((self._counts[key] for key in keys), Counter())
        parts: dict[str, Hours] = {}
        for key in keys:
            for part, hours in self._parts[key].items():
                parts[part] = parts.get(part, Hours()) + hours
        return Row(
            key=name, jobs=len(jobs), attempts=counts["attempts"], requeues=counts["requeues"], starts=counts["starts"],
            queue_s=sum(self._waited[key] for key in keys),
            outcomes=dict(sum((self._outcomes[key] for key in keys), Counter())), parts=parts,
        )

    def _touches(self, attempt: Attempt) -> bool:
        """It waited, ran or ended in the window."""
        begin = attempt.submit_time if attempt.submit_time is not None else attempt.start_time or 0.0
        end = attempt.end_time if attempt.end_time is not None else self._until
        return begin <= self._until and end >= self._since

    def _wait(self, attempt: Attempt) -> float:
        """Seconds between when it could have started and when it did, or ended, or now."""
        begin = attempt.eligible_time if attempt.eligible_time is not None else None
        if begin is None:
            return 0.0
        end = attempt.start_time if attempt.ran else attempt.end_time
        return max(0.0, min(self._until if end is None else end, self._until) - max(begin, self._since))


def _hours(attempt: Attempt, since: float, until: float) -> Hours:
    hours = attempt.seconds_between(since, until) / 3600.0
    held = attempt.held
    return Hours(held.gpus * hours, held.cpus * hours, (held.nodes or len(attempt.nodes)) * hours)


def _told(attempt: Attempt, *, followed: bool) -> str:
    """The part of an attempt of which only the end is known."""
    if followed:
        return "requeued"
    if attempt.state is JobState.COMPLETED:
        return "completed"
    if attempt.state is JobState.CANCELLED:
        return "cancelled"
    if attempt.state.finished:
        return "failed"
    return "running" if attempt.live else "requeued"


def _shares(segments: Sequence[Segment], since: float, until: float) -> dict[str, float]:
    """How the time on nodes inside the window was spent, as shares of 1; {} where nothing is known of it."""
    seconds: dict[str, float] = {}
    for part in segments:
        inside = min(part.end, until) - max(part.start, since)
        if inside > 0 and part.category != QUEUE:
            seconds[part.category] = seconds.get(part.category, 0.0) + inside
    total = sum(seconds.values())
    return {name: value / total for name, value in seconds.items()} if total > 0 else {}
