"""How often a job may start again, and which nodes it must leave out (pure, standard library only).

One function, :func:`judge`, for the coordinator and for the watchdog, so that both stop at the same failure. It is given
the failures of the run's whole life, the newest last, and answers with a reason. The rules, in the order they speak:

1. ``same_failure``: the same failure, by its fingerprint, this many times in a row with no new step between: a bug that a
   further start would only meet again.
2. ``no_progress``: too many failures in a row without a new completed step, whatever they were.
3. ``window``: too many failures within a window of time.
4. ``max_restarts``: too many over the life of the run.

What Slurm ends for reasons of its own (time limit, preemption, a maintenance reservation) uses up nothing but rule 2:
a trainer that makes no step from start to start would go on for ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from hpctrain.submit.plan_model import Plan


class Cause(str, Enum):
    """Why ranks had to be started again, or could not be."""

    RANK = "rank"
    """The user's software ended with an error or by a signal."""
    NODE = "node"
    AGENT = "agent"
    """Our own process on a node ended, or was silent."""
    PROLOG = "prolog"
    """The prolog of a node failed; Slurm holds the job back."""
    HANG = "hang"
    LOSS = "loss"
    HOST_MEMORY = "host_memory"
    GPU_MEMORY = "gpu_memory"
    TIME_LIMIT = "time_limit"
    PREEMPTION = "preemption"
    MAINTENANCE = "maintenance"
    """A reservation for maintenance takes the nodes or keeps the job waiting."""
    CANCELLED = "cancelled"
    """A person ended the job: it is left alone, always."""
    HELD = "held"
    """A person or a site's rule holds the job back."""
    DEPENDENCY = "dependency"
    """The job waits for something that can never come."""
    COORDINATOR = "coordinator"
    """The job runs without anybody who watches it, because the process or its node has gone."""
    HEALTH = "health"
    """A node was found unfit by a check, an operator's drain, or its GPUs' errors."""
    STORAGE = "storage"
    UNKNOWN = "unknown"


FREE = frozenset({
    Cause.TIME_LIMIT, Cause.PREEMPTION, Cause.MAINTENANCE, Cause.CANCELLED, Cause.HELD, Cause.DEPENDENCY,
})
"""Causes that say nothing against the job: they use up no restarts."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One failure of a run, or one end that Slurm gave it.

    Attributes:
        time: when it was known, seconds since the epoch.
        rung: what was done about it, ``R1`` to ``R4``.
        incarnation: number of the ranks that failed.
        step: completed optimizer steps when it failed, None while unknown.
        progressed: these ranks completed a step that none before them had completed.
        fingerprint: from :func:`hpctrain.watchdog.fingerprint.fingerprint`, "" where nothing tells one bug from another.
        nodes: nodes that are to blame.
        message: what went wrong, for people.
        job: Slurm's id of the job that failed, 0 where that was not written down.
        restarts: SLURM_RESTART_COUNT of the start that failed, None where that was not written down.
    """

    time: float
    cause: Cause
    rung: str
    incarnation: int
    step: int | None
    progressed: bool
    fingerprint: str = ""
    nodes: tuple[str, ...] = ()
    message: str = ""
    job: int = 0
    restarts: int | None = None

    @property
    def counted(self) -> bool:
        """Whether it uses up restarts."""
        return self.cause not in FREE

    @property
    def end(self) -> tuple[int, int] | None:
        """The start of a job that ended with this, by the job's id and restart count.

        None for a failure that the start survived (R1, R2), for one before the ranks could start (a failed prolog: the
        same start is still to come), and where the start was not written down.
        """
        ends = self.rung in ("R3", "R4") and self.cause is not Cause.PROLOG
        return (self.job, self.restarts) if ends and self.job and self.restarts is not None else None

    def to_json(self) -> dict[str, Any]:
        """Plain data: one line of ``control/attempts.jsonl``."""
        record = {
            "time": self.time, "cause": self.cause.value, "rung": self.rung, "incarnation": self.incarnation,
            "step": self.step, "progressed": self.progressed, "fingerprint": self.fingerprint,
            "nodes": list(self.nodes), "message": self.message,
        }
        if self.job and self.restarts is not None:
            record |= {"job": self.job, "restarts": self.restarts}
        return record

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Attempt:
        """Read a line back; a cause that a newer hpctrain invented counts as UNKNOWN.

        Raises:
            ValueError: it is no attempt.
        """
        known = {cause.value for cause in Cause}
        try:
            step, restarts = data.get("step"), data.get("restarts")
            return cls(
                time=float(data["time"]), cause=Cause(data["cause"]) if data["cause"] in known else Cause.UNKNOWN,
                rung=str(data["rung"]), incarnation=int(data["incarnation"]), step=None if step is None else int(step),
                progressed=bool(data["progressed"]), fingerprint=str(data.get("fingerprint") or ""),
                nodes=tuple(str(node) for node in data.get("nodes") or ()), message=str(data.get("message") or ""),
                job=int(data.get("job") or 0), restarts=None if restarts is None else int(restarts),
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no attempt: {error}") from None


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The recipe's ``resilience`` as far as it matters here; durations in seconds.

    Attributes:
        max_restarts: over the life of the run.
        max_restarts_without_progress: in a row.
        restarts_per_window: within ``restart_window_s``.
        max_same_failure: this many times the same failure in a row without a new step is the end.
        exclude_after: faults blamed on one node within ``exclude_window_s`` after which it is left out for
            ``exclude_for_s`` from the newest of them.
    """

    max_restarts: int = 20
    max_restarts_without_progress: int = 2
    restarts_per_window: int = 10
    restart_window_s: float = 3600.0
    max_same_failure: int = 3
    exclude_after: int = 2
    exclude_window_s: float = 86400.0
    exclude_for_s: float = 86400.0

    @classmethod
    def from_plan(cls, plan: Plan) -> BudgetLimits:
        """The limits that a run was submitted with."""
        return cls(
            plan.max_restarts, plan.max_restarts_without_progress, plan.restarts_per_window, float(plan.restart_window_s),
            plan.max_same_failure, plan.exclude_after, float(plan.exclude_window_s), float(plan.exclude_for_s),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the job may start again.

    Attributes:
        reason: half a sentence for people, such as ``restart 3 of at most 20``.
        rule: the rule that stops it, "" when it may start: ``same_failure``, ``no_progress``, ``window``, ``max_restarts``.
        exclude: the nodes that it must leave out, in order of their names.
    """

    restart: bool
    reason: str
    rule: str = ""
    exclude: tuple[str, ...] = ()


def end_among(attempts: Sequence[Attempt], attempt: Attempt) -> Attempt | None:
    """The failure among these that is the same end of the same start of a job; None if there is none."""
    return next((one for one in attempts if one.end is not None and one.end == attempt.end), None)


def with_present(attempts: Sequence[Attempt], attempt: Attempt) -> list[Attempt]:
    """The failures with the present one as the newest; one that somebody has counted already counts once."""
    known = end_among(attempts, attempt)
    return [*(one for one in attempts if one is not known), known or attempt]


def judge(
    attempts: Sequence[Attempt], limits: BudgetLimits, *, now: float, nodes_usable: int | None, nodes_needed: int,
) -> Verdict:
    """Whether a run may start again after its newest failure, and without which nodes.

    Args:
        attempts: of the run's whole life, oldest first; the last one is the present failure. Empty: nothing has failed.
        now: seconds since the epoch.
        nodes_usable: nodes that Slurm could give the job if none were excluded; None where that is not known, and then
            none is excluded, because a job that no longer fits anywhere waits for ever.
        nodes_needed: nodes the job asks for, spares included.
    """
    exclude = excluded(attempts, limits, now=now, nodes_usable=nodes_usable, nodes_needed=nodes_needed)
    if stop := _stop(attempts, limits, now):
        return Verdict(False, stop[1], stop[0], exclude)
    if not attempts or not attempts[-1].counted:
        return Verdict(True, "this counts as no failure", exclude=exclude)
    used = sum(attempt.counted for attempt in attempts)
    return Verdict(True, f"restart {used} of at most {limits.max_restarts}", exclude=exclude)


def excluded(
    attempts: Sequence[Attempt], limits: BudgetLimits, *, now: float, nodes_usable: int | None, nodes_needed: int,
) -> tuple[str, ...]:
    """The nodes that are to be left out now, worst first while there is head-room, sorted by name; see :func:`judge`."""
    room = 0 if nodes_usable is None else max(0, nodes_usable - nodes_needed)
    times: dict[str, list[float]] = {}
    for attempt in attempts:
        for node in dict.fromkeys(attempt.nodes):
            times.setdefault(node, []).append(attempt.time)
    worst: list[tuple[int, float, str]] = []
    for node, blamed in times.items():
        newest = max(blamed)
        count = sum(newest - limits.exclude_window_s < time for time in blamed)
        if count >= limits.exclude_after and now < newest + limits.exclude_for_s:
            worst.append((-count, -newest, node))
    return tuple(sorted(node for _, _, node in sorted(worst)[:room]))


def excluded_until(attempts: Sequence[Attempt], limits: BudgetLimits, node: str) -> float | None:
    """When a node that :func:`judge` leaves out may be used again, seconds since the epoch; None if it was never blamed."""
    blamed = [attempt.time for attempt in attempts if node in attempt.nodes]
    return max(blamed) + limits.exclude_for_s if blamed else None


def _stop(attempts: Sequence[Attempt], limits: BudgetLimits, now: float) -> tuple[str, str] | None:
    """The rule that stops the job and what it says, None if it may start again."""
    if not attempts:
        return None
    newest = attempts[-1]
    in_a_row = _without_progress(attempts)
    if not newest.counted:
        if in_a_row > limits.max_restarts_without_progress:
            return "no_progress", f"{_starts(in_a_row)} in a row ended without a new completed step"
        return None
    if newest.fingerprint and (same := _same_failure(attempts)) >= limits.max_same_failure:
        times = "once" if same == 1 else f"{same} times in a row"
        return "same_failure", f"the same failure came {times} with no new step between, and would come again"
    if in_a_row > limits.max_restarts_without_progress:
        return "no_progress", f"{_starts(in_a_row)} in a row failed without a new completed step"
    counted = [attempt for attempt in attempts if attempt.counted]
    recent = sum(now - limits.restart_window_s < attempt.time for attempt in counted)
    if recent > limits.restarts_per_window:
        window = _duration(limits.restart_window_s)
        return "window", f"it failed {recent} times within {window}, and {limits.restarts_per_window} restarts are its limit"
    if len(counted) > limits.max_restarts:
        return "max_restarts", f"it was restarted {_times(limits.max_restarts)}, which is its limit"
    return None


def _without_progress(attempts: Sequence[Attempt]) -> int:
    count = 0
    for attempt in reversed(attempts):
        if attempt.progressed:
            break
        count += 1
    return count


def _same_failure(attempts: Sequence[Attempt]) -> int:
    """How often the newest failure came in a row; the first of them may have made progress, the others have not.

    What Slurm ended in between neither counts nor breaks the row, unless it made progress.
    """
    count, wanted = 0, attempts[-1].fingerprint
    for attempt in reversed(attempts):
        if attempt.counted and attempt.fingerprint != wanted:
            break
        count += attempt.counted
        if attempt.progressed:
            break
    return count


def _starts(count: int) -> str:
    return "1 start" if count == 1 else f"{count} starts"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _duration(seconds: float) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size and seconds % size == 0:
            count = int(seconds // size)
            return f"{count} {name}" + ("s" if count > 1 else "")
    return f"{seconds:g} s"
