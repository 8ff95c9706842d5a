"""What Slurm says about this job, and what is done with it at the end (service)."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hpctrain.agent.decide import Action, Decision, End, slurms_notice, why_told_to_end
from hpctrain.agent.recovery_log import RecoveryLog
from hpctrain.agent.wakeup import Wakeup
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError, JobStateError, NoSuchJobError, NotPermittedError, SlurmError
from hpctrain.ids import JobId
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.model import Job, JobState
from hpctrain.slurm.port import Slurm

NOTICE_PATIENCE_S = 1.5
"""Longest wait for Slurm's words about why it ends the job."""
REQUEUE_PATIENCE_S = 300.0
"""A controller that does not answer is asked again for so long to requeue the job."""
EXIT_NOT_REQUEUED = 75
_LEFT_AS = {
    JobState.CANCELLED: "job.cancelled", JobState.PREEMPTED: "job.requeued", JobState.PENDING: "job.requeued",
    JobState.RUNNING: "job.failed",
}
_OVERTAKEN = {
    JobState.CANCELLED: "the job was cancelled",
    JobState.PREEMPTED: "a job with more priority takes the nodes; Slurm queues this one again",
}
"""What may have happened to the job since the decision to queue it again, which is then left to others."""


class LiftDelay(Protocol):
    """Starts the helper that lifts Slurm's delay after a requeue; see :mod:`hpctrain.agent.lift_delay`."""

    def __call__(self, job_id: JobId, run_dir: RunDir, exclude: tuple[str, ...]) -> None: ...


class JobEnd:
    """Of one start of the batch script.

    Args:
        say: prints a line to the job's output.
    """

    def __init__(
        self, run_dir: RunDir, job_id: JobId, *, slurm: Slurm, events: EventWriter, clock: Clock, lift_delay: LiftDelay,
        say: Callable[[str], None],
    ) -> None:
        self._run_dir, self._job_id, self._slurm, self._events = run_dir, job_id, slurm, events
        self._clock, self._lift_delay, self._say = clock, lift_delay, say
        self._log_offset = run_dir.job_log.stat().st_size if run_dir.job_log.exists() else 0

    def job_state(self) -> JobState | None:
        """Who or what ends this job; None where Slurm does not say."""
        try:
            jobs = self._slurm.jobs([self._job_id])
        except SlurmError as error:
            self._say(f"Slurm does not say what happens to the job: {error}")
            return None
        if not jobs:
            return None
        deadline = self._clock.monotonic() + NOTICE_PATIENCE_S
        while True:
            notice = slurms_notice(self._log_of_this_start(), self._job_id)
            state = why_told_to_end(jobs[0], notice, self._clock.time())
            # The notice and the signal are sent together; at the time limit it is worth waiting for the notice.
            if state is not JobState.CANCELLED or not _over_limit(jobs[0]) or self._clock.monotonic() >= deadline:
                return state
            self._clock.sleep(0.1)

    def _log_of_this_start(self) -> str:
        with contextlib.suppress(OSError), self._run_dir.job_log.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode("utf-8", errors="replace")
        return ""

    def act(
        self, decision: Decision, end: End, evidence: Mapping[str, Any], recovery: RecoveryLog, *, wakeup: Wakeup,
        exclude: tuple[str, ...] = (),
    ) -> int:
        """Carry a decision out; returns the exit code of the batch script.

        Args:
            exclude: nodes that the next start must leave out.
        """
        step = end.best_step
        for node in end.lost_nodes:
            self._events.note("node.lost", f"{node} was lost: {end.problem or 'its agent is gone'}", node=node,
                              evidence=evidence)
        if decision.action is Action.REQUEUE:
            return self._requeue(decision, end, evidence, recovery, wakeup=wakeup, exclude=exclude)
        facts = dict(evidence)
        if decision.action is Action.FAIL and end.failure:
            facts |= {"rank": end.failure.rank, "node": end.failure.node, "traceback": end.failure.traceback}
        kind = {Action.FINISH: "job.finished", Action.FAIL: "job.failed"}.get(decision.action, "")
        if decision.action is Action.LEAVE and end.job_state:
            kind = _LEFT_AS.get(end.job_state, "")
        if kind and not (kind == "job.cancelled" and self._told_by_a_person()):
            self._events.note(kind, decision.reason, step=step, evidence=facts)
        if decision.action is Action.LEAVE and end.job_state in (JobState.PREEMPTED, JobState.PENDING):
            recovery.keep_for_next_start(str(evidence.get("cause")), decision.reason)
            self._lift_delay(self._job_id, self._run_dir, ())  # Slurm holds back what others requeue, too
        verb = {Action.FINISH: "finished", Action.FAIL: "failed", Action.LEAVE: "ended"}[decision.action]
        self._say(f"{verb}: {decision.reason}")
        if decision.action is Action.FAIL and end.failure and end.failure.traceback:
            self._say(f"the cause, from rank {end.failure.rank}:\n{end.failure.traceback.rstrip()}")
        return decision.exit_code

    def _told_by_a_person(self) -> bool:
        """'hpctrain cancel' has recorded who cancelled the job and needs no echo."""
        return any(event.kind == "job.cancelled" and event.source == "cli" for event in read_events(self._run_dir))

    def _requeue(
        self, decision: Decision, end: End, evidence: Mapping[str, Any], recovery: RecoveryLog, *, wakeup: Wakeup,
        exclude: tuple[str, ...],
    ) -> int:
        """Have Slurm start the job again, unless it was cancelled meanwhile; a silent controller is waited for."""
        deadline = self._clock.monotonic() + REQUEUE_PATIENCE_S
        prepared = False
        while True:
            if (state := self.job_state()) in _OVERTAKEN:
                left = Decision(Action.LEAVE, _OVERTAKEN[state], 128 + signal.SIGTERM)
                return self.act(left, End(job_state=state, best_step=end.best_step), evidence, recovery, wakeup=wakeup)
            try:
                if not prepared:
                    self._say(f"queueing the job again: {decision.reason}")
                    self._events.note("job.requeued", decision.reason, step=end.best_step, evidence=evidence)
                    recovery.keep_for_next_start(str(evidence.get("cause")), decision.reason)
                    for node in exclude:
                        why = f"the job is kept from {node}: it has failed too often"
                        self._events.note("node.excluded", why, node=node, evidence={"node": node})
                    self._lift_delay(self._job_id, self._run_dir, exclude)
                    prepared = True
                self._slurm.requeue(self._job_id)
                return 0
            except HpctrainError as error:
                if self.job_state() is JobState.PENDING:
                    return 0  # Slurm was so quick to end this start that it ended the command that asked for it, too
                self._say(f"the job cannot be queued again: {error}")
                hopeless = isinstance(error, (JobStateError, NoSuchJobError, NotPermittedError))
                if hopeless or wakeup.take(signal.SIGTERM) or self._clock.monotonic() >= deadline:
                    reason = f"{decision.reason}; the job could not be queued again: {error}"
                    self._events.note("job.failed", reason, evidence=evidence)
                    return EXIT_NOT_REQUEUED
            wakeup.wait(5.0)


def _over_limit(job: Job) -> bool:
    if job.end_time is None or job.start_time is None or job.time_limit_s is None:
        return False
    return job.end_time - job.start_time >= job.time_limit_s
