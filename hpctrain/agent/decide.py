"""What the coordinator does when the ranks are gone (pure, standard library only).

One function decides, with one reason; the coordinator only carries it out. The order of its rules is the policy:

1. A person ended the job (Slurm says CANCELLED): leave it alone, always.
2. Slurm ended it at its time limit, or takes its nodes for a job with more priority: continue, or let Slurm do so.
   A SIGTERM to a job that stays RUNNING begins a preemption's grace time: ranks that save in it continue later.
3. The work is done.
4. The ranks stopped as asked, or asked to be started again: continue in a new start.
5. Something failed: again, if the budget allows and starting again can help at all; else stop with the cause.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from hpctrain.agent.rank_result import RankExit
from hpctrain.slurm.model import Job, JobState

UNKNOWN_PROGRESS_S = 600.0
"""A script whose steps are not known has made progress if it ran this long before it failed."""
NOT_MENDED_BY_RESTART = {
    2: "its command line is wrong", 3: "the recipe is wrong", 4: "something it needs does not exist",
    12: "a package it needs is not installed", 13: "no checkpoint may be trusted",
}
"""Exit codes of our trainer (the table of hpctrain.errors) that the next start would only repeat."""


_NOTICES = {
    "TIME LIMIT": JobState.TIMEOUT, "PREEMPTION": JobState.PREEMPTED, "JOB REQUEUE": JobState.PENDING,
    "NODE FAILURE": JobState.PENDING,
}
"""How slurmstepd's notice begins, by what it means for the job."""


class Action(str, Enum):
    """What to do now."""

    FINISH = "finish"
    """The work is complete: exit with 0."""
    REQUEUE = "requeue"
    """Have Slurm start the job again."""
    FAIL = "fail"
    """Stop for good, with the cause."""
    LEAVE = "leave"
    """Exit and do nothing: somebody else decided."""


@dataclass(frozen=True, slots=True)
class History:
    """What is known of the starts before, kept in the run directory.

    Attributes:
        incarnation: number of the newest start.
        failures: starts that ended in a failure.
        failures_without_progress: the newest of them in a row that completed no new step.
        best_step: most steps ever completed, None while none is known.
    """

    incarnation: int = -1
    failures: int = 0
    failures_without_progress: int = 0
    best_step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``control/incarnation.json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """The recipe's ``resilience`` as far as it matters here."""

    requeue: bool = True
    max_restarts: int = 20
    max_restarts_without_progress: int = 2
    is_trainer: bool = True


@dataclass(frozen=True, slots=True)
class End:
    """How this start ended.

    Attributes:
        done: all ranks ended because the work is complete.
        stopped: all ranks ended as asked, or asked to be started again.
        stop_reason: why they were asked to stop, "" if nobody asked.
        failure: the rank that failed first.
        lost_nodes: nodes of the allocation that Slurm says are down.
        problem: what else went wrong, in words: an agent that left no result, ``srun`` that could not start.
        exit_code: of ``srun``.
        terminated: this job was sent SIGTERM.
        job_state: what Slurm says about the job, asked only after a SIGTERM; None if it did not answer.
        best_step: most steps completed so far over all starts, None if unknown.
        ran_s: how long the ranks ran.
    """

    done: bool = False
    stopped: bool = False
    stop_reason: str = ""
    failure: RankExit | None = None
    lost_nodes: tuple[str, ...] = ()
    problem: str = ""
    exit_code: int = 0
    terminated: bool = False
    job_state: JobState | None = None
    best_step: int | None = None
    ran_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why, and what is to be remembered.

    Attributes:
        reason: one sentence for people.
        exit_code: of the batch script.
        history: to be written before the action.
    """

    action: Action
    reason: str
    exit_code: int
    history: History


def cannot_start(problem: str, exit_code: int, history: History) -> Decision:
    """What to do when a start cannot be recorded: stop, since starts that nobody counts would go on for ever."""
    return Decision(Action.FAIL, f"this start cannot be recorded: {problem}", exit_code, history)


def slurms_notice(log: str, job_id: int) -> str:
    """Slurm's last word about ending this job, as it stands in the batch step's output: ``TIME LIMIT``, or "" for none.

    Lines of ranks begin with a time, so that no program can print this one.
    """
    start = rf"^slurmstepd\S*: error: \*\*\* JOB {job_id} ON .* CANCELLED AT"
    found = re.findall(start + r" (\S+)(?: DUE TO (.*?))? \*\*\*", log, re.M)
    return found[-1][1] if found else ""


def why_told_to_end(job: Job, notice: str, now: float) -> JobState:
    """Who or what ended this job: CANCELLED, TIMEOUT, PREEMPTED, PENDING (it was requeued), or RUNNING (nobody did).

    While a job is being cleaned up Slurm's commands say COMPLETING and hide the rest (tried with 22.05). The notice
    tells; the times do not, because Slurm enforces a limit up to a minute late and a person may cancel in between.

    Args:
        notice: from :func:`slurms_notice`, of this start.
        now: seconds since the epoch.
    """
    if "COMPLETING" not in job.flags or job.state not in (JobState.RUNNING, JobState.UNKNOWN):
        return job.state
    for word, state in _NOTICES.items():
        if notice.startswith(word):
            return state
    if job.end_time is None or job.end_time > now + 60:
        return JobState.PENDING
    return JobState.CANCELLED


def decide(end: End, history: History, limits: Limits) -> Decision:
    """Choose the action; see the module's docstring for the rules and their order."""
    progress = _progressed(end, history)
    best = max((step for step in (end.best_step, history.best_step) if step is not None), default=None)
    now = History(history.incarnation, history.failures, history.failures_without_progress, best)
    if end.terminated and (ended := _after_sigterm(end, now, limits, progress=progress)):
        return ended
    if end.done:
        return Decision(Action.FINISH, "the work is complete", 0, now)
    if end.stopped and end.failure is None:
        return _continue(end.stop_reason or "the trainer asked to be started again", end, now, limits, progress=progress)
    return _after_failure(end, now, limits, progress=progress)


def _after_sigterm(end: End, history: History, limits: Limits, *, progress: bool) -> Decision | None:
    """The job was told to end: by whom decides. None if it had ended well by itself."""
    code = 128 + 15
    if end.job_state is JobState.CANCELLED:
        return Decision(Action.LEAVE, "the job was cancelled", code, history)
    if end.done:
        return None
    if end.job_state is JobState.TIMEOUT:
        late = "the time limit was reached before the ranks had stopped"
        return _continue(late, end, history, limits, progress=progress)
    if end.job_state is JobState.PREEMPTED:
        return Decision(Action.LEAVE, "a job with more priority takes the nodes; Slurm queues this one again", code, history)
    if end.job_state is JobState.PENDING:
        return Decision(Action.LEAVE, "somebody had Slurm queue the job again", code, history)
    if end.job_state is None:
        return Decision(Action.LEAVE, "the job was told to end, and Slurm did not say why", code, history)
    what = "the job was sent SIGTERM (by preemption with a grace time, or by scancel --signal)"
    if end.stopped and end.failure is None and end.job_state is JobState.RUNNING:
        # Slurm calls a job RUNNING during the grace time, and does not queue again what ends by itself in it.
        return _continue(f"{what} and has saved", end, history, limits, progress=progress)
    return Decision(Action.LEAVE, f"{what} and has stopped", code, history)


def _continue(reason: str, end: End, history: History, limits: Limits, *, progress: bool) -> Decision:
    """Start again without counting a failure, unless our trainer comes no further from one start to the next."""
    if not limits.requeue:
        return Decision(Action.FAIL, f"{reason}, and the recipe says 'requeue: false'", 1, history)
    stuck = limits.is_trainer and not progress
    in_a_row = history.failures_without_progress + 1 if stuck else 0
    kept = History(history.incarnation, history.failures, in_a_row, history.best_step)
    if in_a_row > limits.max_restarts_without_progress:
        why = f"{_starts(in_a_row)} in a row ended without a new completed step; a start may be too short for one"
        return Decision(Action.FAIL, f"{reason}, but {why}", end.exit_code or 1, kept)
    return Decision(Action.REQUEUE, reason, 0, kept)


def _after_failure(end: End, history: History, limits: Limits, *, progress: bool) -> Decision:
    cause = _cause(end)
    code = end.failure.exit_code if end.failure else end.exit_code or 1
    in_a_row = 0 if progress else history.failures_without_progress + 1
    counted = History(history.incarnation, history.failures + 1, in_a_row, history.best_step)
    if why := _hopeless(end, limits):
        return Decision(Action.FAIL, f"{cause}; starting it again would not help: {why}", code, counted)
    if not limits.requeue:
        return Decision(Action.FAIL, f"{cause}; the recipe says 'requeue: false'", code, counted)
    if counted.failures > limits.max_restarts:
        why = f"it was restarted {limits.max_restarts} times, which is its limit"
        return Decision(Action.FAIL, f"{cause}; {why}", code, counted)
    if in_a_row > limits.max_restarts_without_progress:
        why = f"{_starts(in_a_row)} in a row failed without a new completed step"
        return Decision(Action.FAIL, f"{cause}; {why}", code, counted)
    return Decision(Action.REQUEUE, f"{cause}; restart {counted.failures} of at most {limits.max_restarts}", code, counted)


def _hopeless(end: End, limits: Limits) -> str:
    if not limits.is_trainer or end.failure is None:
        return ""
    return NOT_MENDED_BY_RESTART.get(end.failure.returncode, "")


def _cause(end: End) -> str:
    if end.lost_nodes:
        return f"node {', '.join(end.lost_nodes)} was lost"
    if end.failure:
        return end.failure.describe() + (f": {end.failure.message}" if end.failure.message else "")
    return end.problem or f"srun ended with exit code {end.exit_code}"


def _progressed(end: End, history: History) -> bool:
    """Whether this start completed a step that no earlier start had completed."""
    if end.best_step is None:
        return end.ran_s >= UNKNOWN_PROGRESS_S
    return end.best_step > (history.best_step or 0)


def _starts(count: int) -> str:
    return "1 start" if count == 1 else f"{count} starts"
