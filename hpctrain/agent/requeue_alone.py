"""Has a job queued again whose coordinator is gone: one of its agents does it (service).

Slurm does not notice when the batch host of a ``--no-kill`` job dies; the agents of the other nodes do. All of them come
here, one after the other, and the first that finds the job still in the start that it belongs to has it queued again.
What the coordinator or a watchdog has counted already is not counted once more.
"""

from __future__ import annotations

from hpctrain.agent.coordinator_file import read_state
from hpctrain.agent.lift_delay import start_helper
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError
from hpctrain.ids import JobId
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.model import JobState
from hpctrain.slurm.port import Slurm
from hpctrain.submit.plan_model import Plan
from hpctrain.watchdog.attempts import append, read
from hpctrain.watchdog.budget import Attempt, BudgetLimits, Cause, Verdict, end_among, judge, with_present

TURN_S = 3.0
"""Between one agent's try and the next one's."""


class RequeueAlone:
    """For one agent.

    Args:
        restarts: SLURM_RESTART_COUNT of the start of the job that the agent belongs to.
    """

    def __init__(
        self, plan: Plan, run_dir: RunDir, job_id: JobId, restarts: int, *, slurm: Slurm, events: EventWriter, clock: Clock,
    ) -> None:
        self._plan, self._run_dir, self._job_id, self._restarts = plan, run_dir, job_id, restarts
        self._slurm, self._events, self._clock = slurm, events, clock

    def requeue(self, why: str, turn: int) -> bool:
        """Have the job queued again, unless somebody else did; whether it was us.

        Args:
            turn: how many agents come before this one.
        """
        self._clock.sleep(TURN_S * turn)
        try:
            job = next(iter(self._slurm.jobs([self._job_id])), None)
            if job is None or job.state is not JobState.RUNNING or "COMPLETING" in job.flags:
                return False
            if job.restarts != self._restarts:
                return False
            attempts, state = read(self._run_dir), read_state(self._run_dir)
            now = Attempt(
                self._clock.time(), Cause.COORDINATOR, "R3", state.incarnation if state else 0, None, progressed=True,
                message=why, job=int(self._job_id), restarts=self._restarts,
            )
            known = end_among(attempts, now)
            verdict = judge(with_present(attempts, now), BudgetLimits.from_plan(self._plan), now=self._clock.time(),
                            nodes_usable=None, nodes_needed=self._plan.nodes)
            if known is not None and known.rung == "R4":
                verdict = Verdict(False, f"that it stops was decided already: {known.message}")
            append(self._run_dir, now)
            if not verdict.restart or not self._plan.slurm.requeue:
                self._events.note("job.failed", f"{why}; {verdict.reason}", evidence={"cause": now.cause.value,
                                                                                      "rule": verdict.rule})
                self._slurm.cancel(self._job_id)
                return False
            self._events.note("job.requeued", why, evidence={"cause": now.cause.value, "by": "agent"})
            start_helper(self._job_id, self._run_dir)
            self._slurm.requeue(self._job_id)
        except HpctrainError as error:
            self._events.note("agent.lost_coordinator", f"the job cannot be queued again: {error}")
            return False
        return True
