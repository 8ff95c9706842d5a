"""The coordinator: starts the agents in the batch step, passes stop requests on, decides when all is over (service).

It is the only one that acts on the job itself: the batch script does nothing but start it and forward signals.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpctrain import process
from hpctrain.agent.control import EXIT_UNREPORTED, Control, try_write
from hpctrain.agent.decide import (
    Action,
    Decision,
    End,
    History,
    Limits,
    cannot_start,
    decide,
    slurms_notice,
    why_told_to_end,
)
from hpctrain.agent.lines import stamp
from hpctrain.agent.memory import load_history, save_history
from hpctrain.agent.progress import best_step
from hpctrain.agent.rank_plan import RankPlan, plan_ranks
from hpctrain.agent.rank_result import NodeOutcome, NodeResult, first_failure
from hpctrain.agent.wakeup import Wakeup
from hpctrain.checkpoint.keeper_client import shared_secret
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError, JobStateError, NoSuchJobError, NotPermittedError, SlurmError, StorageError
from hpctrain.ids import Incarnation, JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.model import Job, JobState
from hpctrain.slurm.port import Slurm
from hpctrain.submit.plan_model import Plan
from hpctrain.train.environment import INCARNATION

POLL_S = 0.25
CONTROL_POLL_S = 0.5
RESULTS_PATIENCE_S = 5.0
"""Results of other nodes may become visible a little after srun has ended."""
NOTICE_PATIENCE_S = 1.5
"""Longest wait for Slurm's words about why it ends the job."""
SILENCE_PATIENCE_S = 3.0
"""When some agents were sent SIGTERM and others stay silent for this long, those are dead."""
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

    def __call__(self, job_id: JobId, run_dir: RunDir) -> None: ...


@dataclass(slots=True)
class _Step:
    """What happened while the ranks ran."""

    stop_reason: str = ""
    terminated: bool = False
    job_state: JobState | None = None
    aborted: str = ""
    first_notice: float | None = None
    failure_seen: bool = False


class Coordinator:
    """One start of the batch script.

    Args:
        srun: the command that starts one agent per node.
        nodes: nodes of the allocation, in Slurm's order.
        lift_delay: called just before the job is requeued.
        restarts: how often Slurm has started this script before.
    """

    def __init__(
        self, plan: Plan, *, srun: Sequence[str], nodes: Sequence[NodeName], job_id: JobId, slurm: Slurm,
        events: EventWriter, clock: Clock, env: Mapping[str, str], lift_delay: LiftDelay, restarts: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.run_dir = RunDir(Path(plan.run_dir))
        self._srun = tuple(srun)
        self._nodes = tuple(nodes)
        self._job_id = job_id
        self._slurm = slurm
        self._events = events
        self._clock = clock
        self._env = env
        self._lift_delay = lift_delay
        self._restarts = restarts
        self._say = say or self._print
        self._log_offset = self.run_dir.job_log.stat().st_size if self.run_dir.job_log.exists() else 0

    def run(self) -> int:
        """Start the ranks, see them through, decide and act. Returns the exit code of the batch script."""
        with Wakeup((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)) as wakeup:
            try:
                history = self._claim_incarnation()
            except StorageError as error:
                stop = cannot_start(_with_advice(error), error.exit_code, load_history(self.run_dir))
                return self._act(stop, End(), wakeup)
            incarnation = Incarnation(history.incarnation)
            control = Control(self.run_dir, incarnation)
            try:
                ranks = plan_ranks(self._nodes, self.plan.nodes, self.plan.ranks_per_node, incarnation)
                control.publish_ranks(ranks)
                self._make_secret(control)
                end = self._run_step(ranks, control, wakeup)
            except (HpctrainError, ValueError) as error:
                end = End(problem=str(error), exit_code=getattr(error, "exit_code", 1), best_step=best_step(self.run_dir))
            limits = Limits(
                self.plan.slurm.requeue, self.plan.max_restarts, self.plan.max_restarts_without_progress,
                self.plan.command.is_trainer,
            )
            decision = decide(end, history, limits)
            if problem := try_write(save_history, self.run_dir, decision.history):
                self._say(f"the history of restarts cannot be written: {problem}")
            return self._act(decision, end, wakeup)

    def _claim_incarnation(self) -> History:
        """Take the next number, on disk before anything is started under it."""
        before = load_history(self.run_dir)
        history = History(
            before.incarnation + 1, before.failures, before.failures_without_progress, before.best_step
        )
        save_history(self.run_dir, history)
        self._events.note(
            "job.started", f"start {history.incarnation + 1} on {len(self._nodes)} nodes",
            evidence={
                "incarnation": history.incarnation, "nodes": list(self._nodes), "restarts": self._restarts,
                "failures": history.failures,
            },
        )
        self._say(f"start {history.incarnation + 1} of {self.plan.run_name} on {' '.join(self._nodes)}")
        return history

    def _make_secret(self, control: Control) -> None:
        """Before any agent needs it; where it cannot be made there are no checkpoints in memory, and the agents say so."""
        if self.plan.checkpoint.ram:
            with contextlib.suppress(StorageError):
                shared_secret(control.secret)

    # -- while the ranks run ---------------------------------------------------------------------------------------

    def _run_step(self, ranks: RankPlan, control: Control, wakeup: Wakeup) -> End:
        started = self._clock.monotonic()
        env = {**self._env, INCARNATION: str(ranks.incarnation)}
        srun = process.start(self._srun, env=env)
        step = _Step()
        next_look = 0.0
        try:
            while srun.poll() is None:
                self._take_signals(step, control, wakeup)
                if self._clock.monotonic() >= next_look:
                    self._look_at_agents(step, control, ranks)
                    next_look = self._clock.monotonic() + CONTROL_POLL_S
                wakeup.wait(POLL_S)
        finally:
            if srun.poll() is None:
                process.kill_group(srun)
        self._take_signals(step, control, wakeup)
        results = self._results(control, ranks, srun.returncode)
        if not step.terminated and not step.aborted and set(ranks.nodes) <= control.term_noticed():
            step.terminated, step.job_state = True, self._job_state()
        return self._end(step, ranks, results, srun.returncode, self._clock.monotonic() - started)

    def _take_signals(self, step: _Step, control: Control, wakeup: Wakeup) -> None:
        if wakeup.take(signal.SIGUSR1):
            self._request_stop(step, control, "the time limit is near")
        if wakeup.take(signal.SIGTERM) or wakeup.take(signal.SIGINT):
            self._on_term(step, control)

    def _on_term(self, step: _Step, control: Control) -> None:
        """Slurm's own state of the job tells a cancellation, the time limit and preemption apart."""
        step.terminated = True
        step.job_state = self._job_state()
        if step.job_state is JobState.RUNNING:
            self._request_stop(step, control, "the job was sent SIGTERM")
        else:
            self._abort(step, control, f"Slurm ends the job ({step.job_state.value if step.job_state else 'no answer'})")

    def _look_at_agents(self, step: _Step, control: Control, ranks: RankPlan) -> None:
        if step.aborted:
            return
        failed = [result for result in control.results() if result.outcome is NodeOutcome.FAILED]
        if failed:
            self._abort(step, control, f"a rank on {failed[0].node} failed")
            return
        noticed = control.term_noticed()
        if not noticed or step.terminated:
            return
        if step.first_notice is None:
            step.first_notice = self._clock.monotonic()
        reported = {result.node for result in control.results()}
        silent = set(ranks.nodes) - noticed - reported
        if not silent:
            self._on_term(step, control)
        elif self._clock.monotonic() - step.first_notice > SILENCE_PATIENCE_S:
            self._abort(step, control, f"the agent of {', '.join(sorted(silent))} is gone")

    def _request_stop(self, step: _Step, control: Control, reason: str) -> None:
        if step.stop_reason or step.aborted:
            return
        step.stop_reason = reason
        problem = try_write(control.request_stop, reason, self._clock.time())
        self._events.note("job.stop_requested", reason, evidence={"incarnation": control.incarnation, "problem": problem})
        self._say(f"{reason}: the ranks are asked to save and stop" + (f" ({problem})" if problem else ""))

    def _abort(self, step: _Step, control: Control, reason: str) -> None:
        if step.aborted:
            return
        step.aborted = reason
        if problem := try_write(control.abort, reason, self._clock.time()):
            self._say(f"the agents cannot be told to end: {problem}")

    def _job_state(self) -> JobState | None:
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
        with contextlib.suppress(OSError), self.run_dir.job_log.open("rb") as log:
            log.seek(self._log_offset)
            return log.read().decode("utf-8", errors="replace")
        return ""

    # -- how it ended ----------------------------------------------------------------------------------------------

    def _results(self, control: Control, ranks: RankPlan, exit_code: int) -> list[NodeResult]:
        """The results of all training nodes; waits a little for those of agents that ended well."""
        deadline = self._clock.monotonic() + (RESULTS_PATIENCE_S if exit_code == 0 else 1.0)
        while True:
            results = [result for result in control.results() if result.node in ranks.nodes]
            if len(results) == len(ranks.nodes) or self._clock.monotonic() >= deadline:
                return results
            self._clock.sleep(0.1)

    def _end(self, step: _Step, ranks: RankPlan, results: Sequence[NodeResult], exit_code: int, ran_s: float) -> End:
        outcomes = {result.node: result.outcome for result in results}
        complete = len(outcomes) == len(ranks.nodes)
        well = complete and set(outcomes.values()) <= {NodeOutcome.DONE, NodeOutcome.STOPPED}
        silent = [node for node in ranks.nodes if node not in outcomes]
        lost = self._lost(silent) if silent and not step.terminated else ()
        if step.terminated and not well and step.job_state in (None, JobState.RUNNING):
            step.job_state = self._job_state() or step.job_state
        return End(
            done=well and set(outcomes.values()) == {NodeOutcome.DONE},
            stopped=well and NodeOutcome.STOPPED in outcomes.values(),
            stop_reason=step.stop_reason, failure=first_failure(results), lost_nodes=lost,
            problem=_silence(silent, exit_code) if silent else "",
            exit_code=exit_code if exit_code >= 0 else 128 - exit_code, terminated=step.terminated,
            job_state=step.job_state, best_step=best_step(self.run_dir), ran_s=ran_s,
        )

    def _lost(self, nodes: Sequence[NodeName]) -> tuple[str, ...]:
        """Those of the nodes that Slurm has given up.

        With --no-kill a dead node leaves the job's node list, and that is remembered when the node itself is back.
        """
        with contextlib.suppress(SlurmError):
            jobs = self._slurm.jobs([self._job_id])
            left = set(jobs[0].nodes) if jobs and jobs[0].nodes else set(nodes)
            down = {node.name for node in self._slurm.nodes(nodes) if node.state == "DOWN" or "NOT_RESPONDING" in node.flags}
            return tuple(node for node in nodes if node in down or node not in left)
        return ()

    # -- acting ----------------------------------------------------------------------------------------------------

    def _act(self, decision: Decision, end: End, wakeup: Wakeup) -> int:
        step = decision.history.best_step
        evidence: dict[str, object] = {
            "incarnation": decision.history.incarnation, "exit_code": decision.exit_code,
            "failures": decision.history.failures, "best_step": step,
        }
        for node in end.lost_nodes:
            self._events.note("node.lost", f"Slurm says that {node} is down", node=node, evidence=evidence)
        if decision.action is Action.REQUEUE:
            return self._requeue(decision, evidence, wakeup)
        if decision.action is Action.FAIL and end.failure:
            evidence |= {"rank": end.failure.rank, "node": end.failure.node, "traceback": end.failure.traceback}
        kind = {Action.FINISH: "job.finished", Action.FAIL: "job.failed"}.get(decision.action, "")
        if decision.action is Action.LEAVE and end.job_state:
            kind = _LEFT_AS.get(end.job_state, "")
        if kind and not (kind == "job.cancelled" and self._told_by_a_person()):
            self._events.note(kind, decision.reason, step=step, evidence=evidence)
        verb = {Action.FINISH: "finished", Action.FAIL: "failed", Action.LEAVE: "ended"}[decision.action]
        self._say(f"{verb}: {decision.reason}")
        if decision.action is Action.FAIL and end.failure and end.failure.traceback:
            self._say(f"the cause, from rank {end.failure.rank}:\n{end.failure.traceback.rstrip()}")
        return decision.exit_code

    def _told_by_a_person(self) -> bool:
        """'hpctrain cancel' has recorded who cancelled the job and needs no echo."""
        return any(event.kind == "job.cancelled" and event.source == "cli" for event in read_events(self.run_dir))

    def _requeue(self, decision: Decision, evidence: dict[str, object], wakeup: Wakeup) -> int:
        """Have Slurm start the job again, unless it was cancelled meanwhile; a silent controller is waited for."""
        deadline = self._clock.monotonic() + REQUEUE_PATIENCE_S
        prepared = False
        while True:
            if (state := self._job_state()) in _OVERTAKEN:
                left = Decision(Action.LEAVE, _OVERTAKEN[state], 128 + signal.SIGTERM, decision.history)
                return self._act(left, End(job_state=state), wakeup)
            try:
                if not prepared:
                    self._say(f"queueing the job again: {decision.reason}")
                    self._events.note("job.requeued", decision.reason, step=decision.history.best_step, evidence=evidence)
                    self._lift_delay(self._job_id, self.run_dir)
                    prepared = True
                self._slurm.requeue(self._job_id)
                return 0
            except HpctrainError as error:
                if self._job_state() is JobState.PENDING:
                    return 0  # Slurm was so quick to end this start that it ended the command that asked for it, too
                self._say(f"the job cannot be queued again: {error}")
                hopeless = isinstance(error, (JobStateError, NoSuchJobError, NotPermittedError))
                if hopeless or wakeup.take(signal.SIGTERM) or self._clock.monotonic() >= deadline:
                    reason = f"{decision.reason}; the job could not be queued again: {error}"
                    self._events.note("job.failed", reason, evidence=evidence)
                    return EXIT_NOT_REQUEUED
            wakeup.wait(5.0)

    def _print(self, text: str) -> None:
        data = f"{stamp(self._clock.time())} hpctrain: {text}\n".encode()
        with contextlib.suppress(OSError):  # a full disk under job.out must not end the job
            os.write(1, data)


def _silence(nodes: Sequence[NodeName], exit_code: int) -> str:
    """Why these nodes left no result, in words."""
    if exit_code == EXIT_UNREPORTED:
        return (
            f"the ranks of {', '.join(nodes)} ended, but the result could not be written: the run directory's file system"
            " is full or read-only"
        )
    return f"the agent of {', '.join(nodes)} ended without a word (srun: exit code {exit_code})"


def _with_advice(error: HpctrainError) -> str:
    return f"{error} ({error.advice})" if error.advice else str(error)


def _over_limit(job: Job) -> bool:
    if job.end_time is None or job.start_time is None or job.time_limit_s is None:
        return False
    return job.end_time - job.start_time >= job.time_limit_s
