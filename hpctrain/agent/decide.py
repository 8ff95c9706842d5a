"""What is done when the ranks of a job have ended for good in this start, or have failed (pure, standard library only).

One function decides, with one reason; the coordinator only carries it out. The order of its rules is the policy:

1. A person ended the job (Slurm says CANCELLED): leave it alone, always.
2. Slurm ended it at its time limit, or takes its nodes for a job with more priority: continue, or let Slurm do so.
   A SIGTERM to a job that stays RUNNING begins a preemption's grace time: ranks that save in it continue later.
3. The work is done.
4. The ranks stopped as asked, or asked to be started again: continue in a new start.
5. Something failed: again, if the budget allows and starting again can help at all; else stop with the cause.

The budget itself is :mod:`hpctrain.watchdog.budget`, which the watchdog asks, too.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from hpctrain.agent.rank_result import RankExit
from hpctrain.slurm.model import Job, JobState
from hpctrain.train.environment import EXIT_DIVERGED, EXIT_REWIND
from hpctrain.watchdog.budget import Attempt, Cause, Verdict
from hpctrain.watchdog.fingerprint import fingerprint

UNKNOWN_PROGRESS_S = 600.0
"""A script whose steps are not known has made progress if it ran this long before it failed."""
OUTSIDE = (Cause.NODE, Cause.AGENT, Cause.COORDINATOR, Cause.HEALTH)
"""Causes that no program of the user's can have."""
NOT_MENDED_BY_RESTART = {
    2: "its command line is wrong", 3: "the recipe is wrong", 4: "something it needs does not exist",
    12: "a package it needs is not installed", 13: "no checkpoint may be trusted",
    19: "a model that it asks does not answer, after all tries that the recipe allows",
    EXIT_DIVERGED: "its loss policy says that training has failed",
}
"""Exit codes of our trainer (the table of hpctrain.errors) that the next start would only repeat."""
_GPU_MEMORY = re.compile(r"OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|HIP out of memory")
_HOST_MEMORY = re.compile(r"MemoryError|Cannot allocate memory|can't allocate memory|oom[-_]kill", re.I)

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
    """What is known of the incarnations before, kept in the run directory.

    Attributes:
        incarnation: number of the newest one.
        best_step: most steps ever completed, None while none is known.
    """

    incarnation: int = -1
    best_step: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``control/incarnation.json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Limits:
    """The recipe's ``resilience`` as far as it matters here."""

    requeue: bool = True
    is_trainer: bool = True
    tells_to_stop: bool = True
    """A stop request reaches the ranks: with ``stop_signal: none`` a script hears nothing of it."""


@dataclass(frozen=True, slots=True)
class End:
    """How an incarnation ended.

    Attributes:
        done: all ranks ended because the work is complete.
        stopped: all ranks ended as asked, or asked to be started again.
        stop_reason: why they were asked to stop, "" if nobody asked.
        failure: the rank that failed first.
        cause: what it was, as far as it is known without the failed rank's own words.
        lost_nodes: nodes whose agents are gone.
        blamed_nodes: nodes that a detector or Slurm holds responsible.
        problem: what else went wrong, in words.
        exit_code: for the batch script, where no rank's says more.
        hopeless: why no further start can help, "" if one might.
        terminated: this job was sent SIGTERM.
        job_state: what Slurm says about the job, asked only after a SIGTERM; None if it did not answer.
        best_step: most steps completed so far over all incarnations, None if unknown.
        ran_s: how long the ranks ran.
    """

    done: bool = False
    stopped: bool = False
    stop_reason: str = ""
    failure: RankExit | None = None
    cause: Cause = Cause.RANK
    lost_nodes: tuple[str, ...] = ()
    blamed_nodes: tuple[str, ...] = ()
    problem: str = ""
    exit_code: int = 0
    hopeless: str = ""
    terminated: bool = False
    job_state: JobState | None = None
    best_step: int | None = None
    ran_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why.

    Attributes:
        reason: one sentence for people.
        exit_code: of the batch script.
        rule: of the budget that forbids another start, "" where none does.
    """

    action: Action
    reason: str
    exit_code: int
    rule: str = ""


def cannot_start(problem: str, exit_code: int) -> Decision:
    """What to do when a start cannot be recorded: stop, since starts that nobody counts would go on for ever."""
    return Decision(Action.FAIL, f"this start cannot be recorded: {problem}", exit_code)


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


def attempt_of(end: End, history: History, rung: str, now: float) -> Attempt:
    """The record of this end, as the budget counts it.

    Args:
        rung: by which it shall go on.
        now: seconds since the epoch.
    """
    failure = end.failure
    message = (failure.message if failure else "") or end.problem
    mark = ""
    if failure is not None and cause_of(end) in (Cause.RANK, Cause.GPU_MEMORY, Cause.HOST_MEMORY) and failure.returncode > 0:
        mark = fingerprint(failure.message, failure.traceback, failure.exit_code)
    return Attempt(
        time=now, cause=cause_of(end), rung=rung, incarnation=history.incarnation, step=end.best_step,
        progressed=progressed(end, history), fingerprint=mark,
        nodes=tuple(dict.fromkeys((*end.lost_nodes, *end.blamed_nodes))), message=message[:500],
    )


def cause_of(end: End) -> Cause:
    """One word for what happened."""
    if end.lost_nodes:
        return end.cause if end.cause in (Cause.NODE, Cause.AGENT) else Cause.NODE
    if end.terminated and end.job_state is JobState.TIMEOUT:
        return Cause.TIME_LIMIT
    if end.terminated and end.failure is None:
        return Cause.CANCELLED if end.job_state is JobState.CANCELLED else Cause.PREEMPTION
    if end.stopped and end.failure is None:
        return Cause.TIME_LIMIT
    if end.failure is not None and end.cause is Cause.RANK:
        if end.failure.returncode == EXIT_REWIND:
            return Cause.LOSS
        words = f"{end.failure.message}\n{end.failure.traceback}"
        if _GPU_MEMORY.search(words):
            return Cause.GPU_MEMORY
        if _HOST_MEMORY.search(words):
            return Cause.HOST_MEMORY
    return end.cause


def decide(end: End, verdict: Verdict, limits: Limits) -> Decision:
    """Choose the action; see the module's docstring for the rules and their order.

    Args:
        verdict: of the budget on :func:`attempt_of` this end.
    """
    if end.terminated and (ended := _after_sigterm(end, verdict, limits)):
        return ended
    if end.done:
        return Decision(Action.FINISH, "the work is complete", 0)
    if end.stopped and end.failure is None:
        return _continue(end.stop_reason or "the trainer asked to be started again", end, verdict, limits)
    return _after_failure(end, verdict, limits)


def _after_sigterm(end: End, verdict: Verdict, limits: Limits) -> Decision | None:
    """The job was told to end: by whom decides. None if it had ended well by itself."""
    code = 128 + 15
    if end.job_state is JobState.CANCELLED:
        return Decision(Action.LEAVE, "the job was cancelled", code)
    if end.done:
        return None
    if end.job_state is JobState.TIMEOUT:
        return _continue("the time limit was reached before the ranks had stopped", end, verdict, limits)
    if end.job_state is JobState.PREEMPTED:
        return Decision(Action.LEAVE, "a job with more priority takes the nodes; Slurm queues this one again", code)
    if end.job_state is JobState.PENDING:
        return Decision(Action.LEAVE, "somebody had Slurm queue the job again", code)
    if end.job_state is None:
        return Decision(Action.LEAVE, "the job was told to end, and Slurm did not say why", code)
    what = "the job was sent SIGTERM (by preemption with a grace time, or by scancel --signal)"
    if end.stopped and end.failure is None and end.job_state is JobState.RUNNING:
        # Slurm calls a job RUNNING during the grace time, and does not queue again what ends by itself in it.
        return _continue(f"{what} and has saved", end, verdict, limits)
    return Decision(Action.LEAVE, f"{what} and has stopped", code)


def _continue(reason: str, end: End, verdict: Verdict, limits: Limits) -> Decision:
    """Start again without counting a failure, unless our trainer comes no further from one start to the next."""
    if not limits.requeue:
        return Decision(Action.FAIL, f"{reason}, and the recipe says 'requeue: false'", 1)
    if not verdict.restart and limits.is_trainer:
        return Decision(Action.FAIL, f"{reason}, but {verdict.reason}", end.exit_code or 1, verdict.rule)
    return Decision(Action.REQUEUE, reason, 0)


def _after_failure(end: End, verdict: Verdict, limits: Limits) -> Decision:
    cause = describe_cause(end)
    code = end.failure.exit_code if end.failure else end.exit_code or 1
    if why := hopeless(end, limits):
        return Decision(Action.FAIL, f"{cause}; starting it again would not help: {why}", code, "hopeless")
    if not limits.requeue:
        return Decision(Action.FAIL, f"{cause}; the recipe says 'requeue: false'", code)
    if not verdict.restart:
        return Decision(Action.FAIL, f"{cause}; {verdict.reason}", code, verdict.rule)
    return Decision(Action.REQUEUE, f"{cause}; {verdict.reason}" if verdict.reason else cause, code)


def hopeless(end: End, limits: Limits) -> str:
    """Why another start would only repeat this end, "" if it may not."""
    if end.hopeless:
        return end.hopeless
    if not limits.is_trainer or end.failure is None or end.lost_nodes:
        return ""
    return NOT_MENDED_BY_RESTART.get(end.failure.returncode, "")


def describe_cause(end: End) -> str:
    """What happened, in words."""
    if end.lost_nodes:
        return f"node {', '.join(end.lost_nodes)} was lost" + (f" ({end.problem})" if end.problem else "")
    if end.problem and end.cause is not Cause.RANK:
        return end.problem
    if end.failure:
        return end.failure.describe() + (f": {end.failure.message}" if end.failure.message else "")
    return end.problem or f"srun ended with exit code {end.exit_code}"


def progressed(end: End, history: History) -> bool:
    """Whether this incarnation completed a step that none before it had completed."""
    if end.best_step is None:
        # Where nobody knows the steps, a fault from outside says nothing against the script; the other budgets count it.
        return end.ran_s >= UNKNOWN_PROGRESS_S or cause_of(end) in OUTSIDE
    return end.best_step > (history.best_step or 0)
