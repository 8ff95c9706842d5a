"""What is the matter with a job, as far as Slurm and the coordinator's sign of life tell (pure, standard library only).

Every sentence here rests on something that was seen. A controller that does not answer, a file that is missing and a job
that is unknown say nothing, so nothing is concluded from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from hpctrain.slurm.model import Job, JobState, Node
from hpctrain.watchdog.budget import Cause
from hpctrain.watchdog.model import Beat, JobView

STALE_S = 60.0
"""A coordinator that has written nothing for so long is gone: it writes every 5 s (control/coordinator.json)."""
STARTUP_S = 180.0
"""Longest time from the start of the batch script to the coordinator's first sign of life."""
SURE_S = 12.0
"""Two looks that are to confirm each other lie at least so far apart: longer than two beats of a coordinator, which any new
beat in between disproves. So a coordinator whose clock is wrong is not taken for a dead one."""
DOUBT_S = 40.0
"""A coordinator whose file has not changed before our eyes for so long is doubted. Files are looked at every 5 s at least,
so that it has been doubted for SURE_S when its silence reaches STALE_S: then the next poll decides."""
LONGEST_DELAY_S = 130.0
"""Slurm's own delay after a requeue is 121 s by default. A later begin time is somebody's wish, and is left alone."""
SETTLE_S = 20.0
"""An ended job is judged when it has been over for so long: Slurm may queue it again by itself, and a shared file system
may show the coordinator's last word late."""


class Way(str, Enum):
    """What should follow."""

    RESTART = "restart"
    """Queue the job again, if the budget allows."""
    RELEASE = "release"
    """Let a held job go, without the nodes that kept it from starting."""
    UNEXCLUDE = "unexclude"
    """Take back our exclusions: with them the job fits nowhere."""
    LEAVE = "leave"
    """It is as somebody wants it, or ended well."""
    CONTINUE = "continue"
    """Go on as another job, if that can start sooner."""
    WAIT = "wait"
    """It may come right by itself."""
    TELL = "tell"
    """Nothing can be done from here; a person should know."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter.

    Attributes:
        reason: one sentence for people.
        nodes: nodes to blame.
        confirm: a second look, later, must find the same before anything is done.
        by_beat: it rests on the coordinator's silence, which may have been doubted before.
    """

    cause: Cause
    way: Way
    reason: str
    nodes: tuple[str, ...] = ()
    confirm: bool = False
    by_beat: bool = False


def waits_for_dead_node(job: Job, now: float) -> bool:
    """Whether a job was queued again and cannot start before Slurm has given up one of its old nodes.

    While a job is cleaned up Slurm's text hides its base state. Its end tells: of a job that waits to start again Slurm
    shows one in the future, of one that was cancelled or has ended, one in the past (seen with 22.05).
    """
    return "COMPLETING" in job.flags and job.restarts > 0 and job.end_time is not None and job.end_time > now + 30.0


def diagnose(view: JobView, now: float, *, beat_since: float, since: float) -> Diagnosis | None:
    """What is the matter with a job; None where all is as it should be.

    Args:
        now: seconds since the epoch.
        beat_since: when this beat of the coordinator was first seen by us.
        since: when the job was first seen in this state.
    """
    job = view.job
    if view.managed.fenced:
        return Diagnosis(Cause.CANCELLED, Way.LEAVE, "the run has gone on as another job")
    if job.state is JobState.PENDING:
        return _pending(job)
    if job.state is JobState.RUNNING:
        return _running(view, now, beat_since, since)
    if job.state.finished:
        return _ended(view, now, since)
    return None


def _pending(job: Job) -> Diagnosis | None:
    reason = job.reason.replace("_", " ")
    lower = reason.lower()
    if "launch failed" in lower or reason == "JobHoldMaxRequeue":
        what = f"Slurm holds the job because it could not be launched ('{reason}'): a prolog failed"
        return Diagnosis(Cause.PROLOG, Way.RELEASE, what)
    if job.held:
        if "held state" in lower or "REQUEUE_HOLD" in job.flags or "SPECIAL_EXIT" in job.flags:
            return Diagnosis(Cause.HELD, Way.TELL, f"the job was queued again and held, not by the watchdog ('{reason}')")
        return Diagnosis(Cause.HELD, Way.LEAVE, f"somebody holds the job ('{reason}')")
    if reason == "DependencyNeverSatisfied":
        return Diagnosis(Cause.DEPENDENCY, Way.TELL, "the job waits for another one to succeed, and that has failed")
    if reason.startswith("ReqNodeNotAvail") and "maint" in lower:
        return Diagnosis(Cause.MAINTENANCE, Way.WAIT, "the job waits because a maintenance reservation has its nodes")
    if reason in ("BadConstraints", "ReqNodeNotAvail") or reason.startswith("ReqNodeNotAvail,"):
        return Diagnosis(Cause.UNKNOWN, Way.UNEXCLUDE, f"the job fits no nodes ('{reason}')", confirm=True)
    return None


def _running(view: JobView, now: float, beat_since: float, since: float) -> Diagnosis | None:
    job, beat = view.job, view.beat
    if waits_for_dead_node(job, now) and beat is not None and beat.restarts < job.restarts and view.managed.run_dir:
        if now - since < view.managed.continue_after_s:
            return Diagnosis(Cause.NODE, Way.WAIT, "the job was queued again, and its old nodes are being cleaned up")
        what = "the job was queued again, and cannot start while Slurm waits for a dead node"
        return Diagnosis(Cause.NODE, Way.CONTINUE, what, tuple(str(node) for node in job.nodes))
    if "COMPLETING" in job.flags or "CONFIGURING" in job.flags:
        return None
    silent = max(now - beat_since, now - beat.time) if beat is not None else STALE_S + 1
    if job.batch_host is not None and job.nodes and job.batch_host not in job.nodes:
        if silent <= STALE_S:  # the agents that are left notice it, too, and save what memory holds before they requeue
            return Diagnosis(Cause.NODE, Way.WAIT, f"the batch host {job.batch_host} is lost; the agents have time to save")
        what = f"the job has lost its batch host {job.batch_host}, and with it its coordinator"
        return Diagnosis(Cause.NODE, Way.RESTART, what, (job.batch_host,), confirm=True, by_beat=True)
    if beat is None or (beat.over and beat.restarts == job.restarts):
        return None
    if beat.restarts != job.restarts:
        started = job.start_time or now
        if beat.restarts < job.restarts and now - started > STARTUP_S:
            waited = f"{int(now - started)} s after its start"
            return Diagnosis(
                Cause.COORDINATOR, Way.RESTART, f"the job has no coordinator, {waited}", confirm=True, by_beat=True,
            )
        return None
    if silent > STALE_S:
        what = f"the coordinator on {beat.host} has given no sign of life for {int(silent)} s"
        return Diagnosis(Cause.COORDINATOR, Way.RESTART, what, confirm=True, by_beat=True)
    return None


_ENDS = {
    JobState.NODE_FAIL: (Cause.NODE, "a node of the job failed"),
    JobState.BOOT_FAIL: (Cause.NODE, "a node of the job did not boot"),
    JobState.TIMEOUT: (Cause.TIME_LIMIT, "the time limit ended the job before it could be continued"),
    JobState.PREEMPTED: (Cause.PREEMPTION, "the job was preempted, and Slurm has not queued it again"),
    JobState.OUT_OF_MEMORY: (Cause.HOST_MEMORY, "the job used more memory than Slurm gave it"),
}


def _ended(view: JobView, now: float, since: float) -> Diagnosis | None:
    job, beat = view.job, view.beat
    if job.state in (JobState.CANCELLED, JobState.COMPLETED):
        who = "somebody cancelled the job" if job.state is JobState.CANCELLED else "the job is complete"
        return Diagnosis(Cause.CANCELLED if job.state is JobState.CANCELLED else Cause.UNKNOWN, Way.LEAVE, who)
    if beat is not None and beat.over and beat.restarts == job.restarts:
        return Diagnosis(Cause.UNKNOWN, Way.LEAVE, "the coordinator has ended the job")
    if now - (job.end_time or since) < SETTLE_S:
        return Diagnosis(Cause.UNKNOWN, Way.WAIT, "the job has just ended")
    if job.state in _ENDS:
        cause, reason = _ENDS[job.state]
        return Diagnosis(cause, Way.RESTART, reason)
    if job.state is JobState.DEADLINE:
        return Diagnosis(Cause.UNKNOWN, Way.TELL, "the job missed its deadline, and Slurm has removed it")
    if job.state is not JobState.FAILED:
        return None
    if beat is None or beat.restarts != job.restarts:
        # Without a word from this start's coordinator its end may be a decision as well as an accident.
        return Diagnosis(Cause.UNKNOWN, Way.LEAVE, f"the job failed ({_exit(job)}), and its coordinator left no word")
    return Diagnosis(Cause.COORDINATOR, Way.RESTART, f"the batch script ended without a decision ({_exit(job)})")


def _exit(job: Job) -> str:
    return f"signal {job.exit_signal}" if job.exit_signal else f"exit code {job.exit_code}"


def failed_prologs(nodes: Sequence[Node], *, since: float) -> tuple[str, ...]:
    """Nodes that Slurm has drained for a failed prolog, or our own prolog for a finding, at or after a time."""
    found = []
    for node in nodes:
        ours = node.reason.startswith(("Prolog error", "prolog", "hpctrain:", "batch job complete failure"))
        if node.drained and ours and (node.reason_time or 0.0) >= since - 1.0:
            found.append(str(node.name))
    return tuple(found)


def dead_nodes(nodes: Sequence[Node]) -> tuple[str, ...]:
    """Nodes that do not answer."""
    return tuple(str(node.name) for node in nodes if node.state == "DOWN" or "NOT_RESPONDING" in node.flags)


def beat_key(beat: Beat | None) -> tuple[int, int, float] | None:
    """What changes when a coordinator lives."""
    return None if beat is None else (beat.restarts, beat.beat, beat.time)
