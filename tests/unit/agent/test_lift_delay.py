"""The helper that lifts Slurm's delay after a requeue."""

from __future__ import annotations

from hpctrain.agent.lift_delay import PATIENCE_S, lift
from hpctrain.ids import JobId
from hpctrain.slurm.model import JobState, Submission
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm

SCRIPT = Submission("#!/bin/sh\n#SBATCH --nodes=1\nsleep 1\n", "/work")


def requeued(slurm: FakeSlurm) -> JobId:
    job_id = slurm.submit(SCRIPT)
    slurm.requeue(job_id)
    return job_id


def test_job_starts_seconds_after_its_requeue() -> None:
    """Instead of two minutes the job waits a few seconds, then runs."""
    clock = FakeClock()
    slurm = FakeSlurm(clock=clock)
    job_id, begun = requeued(slurm), clock.time()
    assert lift(slurm, job_id, clock)
    assert slurm.jobs([job_id])[0].state is JobState.RUNNING
    assert clock.time() - begun < 15


def test_cancelled_and_held_jobs_are_left_alone() -> None:
    """A job that a person cancelled or held meanwhile is not touched."""
    clock = FakeClock()
    slurm = FakeSlurm(clock=clock)
    cancelled, held = requeued(slurm), slurm.submit(SCRIPT)
    slurm.cancel(cancelled)
    slurm.requeue(held, hold=True)
    assert not lift(slurm, cancelled, clock)
    assert not lift(slurm, held, clock)
    assert "update_job" not in slurm.calls


def test_helper_gives_up_in_time() -> None:
    """With a silent controller it asks for a while and ends without an error."""
    clock = FakeClock()
    slurm = FakeSlurm(clock=clock)
    job_id, begun = requeued(slurm), clock.time()
    slurm.controller_up = False
    assert not lift(slurm, job_id, clock)
    assert clock.time() - begun <= PATIENCE_S + 2
