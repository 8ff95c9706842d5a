"""Lifts the two minutes for which Slurm holds a requeued job back (service).

Slurm stamps the delay only when the old start is completely cleaned up, and by then the batch step, and with it the
coordinator, is gone. So a helper outlives them: a process of its own session, no longer a child of the batch step.
Where Slurm tracks processes by cgroup, it is killed with the step; there our epilog does the same, for which the job leaves
it a note. Without either the job starts after the delay, as any requeued job does. Nothing depends on it.
"""

from __future__ import annotations

import contextlib
import os
import sys

from hpctrain import process
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError, JobStateError, SlurmError
from hpctrain.health import requeued
from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.slurm.model import JobState, JobUpdate
from hpctrain.slurm.port import Slurm
from hpctrain.slurm.requeue_delay import DelayWatch

PATIENCE_S = 90.0
POLL_S = 1.0


def start_helper(job_id: JobId, run_dir: RunDir, exclude: tuple[str, ...] = ()) -> None:
    """Start the helper and return; failing to is no error.

    Args:
        exclude: nodes that the next start must leave out: Slurm takes that of a waiting job only.

    The job's variables are left out of its environment, because it no longer belongs to this start of the job.
    """
    requeued.leave(os.environ)
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_") or name == "SLURM_CONF"}
    argv = [sys.executable, "-m", "hpctrain.agent", "lift-delay", "--run-dir", str(run_dir.path), "--job", str(job_id)]
    argv += ["--exclude", ",".join(exclude)] if exclude else []
    try:
        # The child forks once more and ends, so that the helper's parent is init and not the batch step.
        process.start(argv, env=env, cwd="/", stdout=process.DEVNULL, stderr=process.DEVNULL).wait(timeout=10)
    except (HpctrainError, process.TimeoutExpired):
        return


def detach() -> bool:
    """Fork; True in the child, which then belongs to nobody."""
    if os.fork():
        return False
    os.setsid()
    return True


def lift(slurm: Slurm, job_id: JobId, clock: Clock, exclude: tuple[str, ...] = ()) -> bool:
    """Wait until the job is queued again and make it eligible now; False if that did not come to pass in time."""
    deadline = clock.monotonic() + PATIENCE_S
    lifted_at: int | None = None
    watch = DelayWatch()
    while clock.monotonic() < deadline:
        try:
            job = next(iter(slurm.jobs([job_id])), None)
            if job is None or job.state.finished or job.held:
                return False
            if lifted_at is not None and (job.restarts > lifted_at or job.reason != "BeginTime"):
                return True  # started, or waiting for nodes; a later requeue has a helper of its own
            if exclude and job.state is JobState.PENDING and "COMPLETING" not in job.flags:
                names, exclude = tuple(NodeName(node) for node in exclude), ()
                with contextlib.suppress(JobStateError):  # no other nodes: better these than none
                    slurm.update_job(job_id, JobUpdate(exclude=names))
            if watch.may_lift(job, clock.monotonic()):
                slurm.update_job(job_id, JobUpdate(start_now=True))
                lifted_at = job.restarts
        except SlurmError:
            pass  # the job is in between two states, or the controller is busy: look again
        clock.sleep(POLL_S)
    return False
