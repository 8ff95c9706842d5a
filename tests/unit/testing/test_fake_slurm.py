"""What the in-memory Slurm offers beyond the contract: time, failures and ends that a test decides."""

from __future__ import annotations

import pytest

from hpctrain.errors import ControllerDownError
from hpctrain.ids import JobId
from hpctrain.slurm.model import JobState, Partition, Submission
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm


@pytest.fixture
def clock() -> FakeClock:
    """Moved by the tests."""
    return FakeClock()


@pytest.fixture
def slurm(clock: FakeClock) -> FakeSlurm:
    """Three nodes."""
    return FakeSlurm(("n1", "n2", "n3"), clock=clock)


def submit(slurm: FakeSlurm, *options: str) -> JobId:
    return slurm.submit(Submission("\n".join(["#!/bin/sh", *(f"#SBATCH {option}" for option in options), "srun x"]), "/w"))


def state(slurm: FakeSlurm, job_id: JobId) -> JobState:
    (job,) = slurm.jobs([job_id])
    return job.state


def test_requeued_job_starts_by_itself_after_121_seconds(slurm: FakeSlurm, clock: FakeClock) -> None:
    """As on a real Slurm, not a second earlier."""
    job_id = submit(slurm)
    slurm.requeue(job_id)
    clock.advance(120)
    assert state(slurm, job_id) is JobState.PENDING
    clock.advance(1)
    assert state(slurm, job_id) is JobState.RUNNING


def test_time_limit_ends_a_job(slurm: FakeSlurm, clock: FakeClock) -> None:
    """At its limit, and the next job starts."""
    first, second = submit(slurm, "--nodes=3", "--time=10"), submit(slurm, "--nodes=3")
    clock.advance(601)
    assert state(slurm, first) is JobState.TIMEOUT
    assert state(slurm, second) is JobState.RUNNING
    (job,) = slurm.jobs([first])
    assert job.end_time == clock.now - 1


def test_first_in_first_out(slurm: FakeSlurm) -> None:
    """A small job does not overtake a large one that waits."""
    running, large, small = submit(slurm, "-N2"), submit(slurm, "-N3"), submit(slurm, "-N1")
    reasons = [job.reason for job in slurm.jobs()]
    assert reasons == ["", "Resources", "Priority"]
    slurm.finish(running)
    assert state(slurm, large) is JobState.RUNNING
    assert state(slurm, small) is JobState.PENDING


def test_node_loss_requeues_a_plain_job(slurm: FakeSlurm, clock: FakeClock) -> None:
    """It comes back without the lost node."""
    job_id = submit(slurm, "--nodes=2")
    slurm.node_down("n2")
    assert state(slurm, job_id) is JobState.PENDING
    clock.advance(122)
    assert slurm.jobs([job_id])[0].nodes == ("n1", "n3")


def test_node_loss_ends_a_job_that_must_not_be_requeued(slurm: FakeSlurm) -> None:
    """NODE_FAIL is final for it."""
    job_id = submit(slurm, "--no-requeue")
    slurm.node_down("n1")
    assert state(slurm, job_id) is JobState.NODE_FAIL


def test_node_loss_shrinks_a_job_with_no_kill(slurm: FakeSlurm) -> None:
    """Also when it was the batch host, which Slurm does not notice: the job looks RUNNING."""
    job_id = submit(slurm, "--nodes=3", "--no-kill")
    slurm.node_down("n1")
    (job,) = slurm.jobs([job_id])
    assert (job.state, job.nodes, job.batch_host) == (JobState.RUNNING, ("n2", "n3"), "n1")
    assert job.batch_host not in job.nodes


def test_lost_node_comes_back(slurm: FakeSlurm) -> None:
    """And takes jobs again, unless somebody drained it."""
    slurm.drain(["n2"], "mine")
    slurm.node_down("n1")
    slurm.node_down("n2")
    slurm.node_up("n1")
    slurm.node_up("n2")
    first, second, _ = slurm.nodes()
    assert first.available
    assert (second.available, second.reason) == (False, "mine")


def test_ended_jobs_are_forgotten_after_five_minutes(slurm: FakeSlurm, clock: FakeClock) -> None:
    """MinJobAge, after which only a database would know."""
    job_id = submit(slurm)
    slurm.finish(job_id, exit_code=2)
    clock.advance(300)
    assert slurm.jobs([job_id])
    clock.advance(1)
    assert slurm.jobs([job_id]) == []


def test_only_a_running_job_can_finish(slurm: FakeSlurm) -> None:
    """A test that ends what does not run is wrong and hears it."""
    job_id = submit(slurm, "--hold")
    with pytest.raises(ValueError, match="PENDING"):
        slurm.finish(job_id)


def test_controller_can_be_switched_off_and_on(slurm: FakeSlurm) -> None:
    """Jobs survive."""
    job_id = submit(slurm)
    slurm.controller_up = False
    with pytest.raises(ControllerDownError):
        slurm.jobs()
    slurm.controller_up = True
    assert state(slurm, job_id) is JobState.RUNNING


def test_partition_limits_hold_jobs_back(clock: FakeClock) -> None:
    """A partition that is down or too small keeps its jobs, not those of others."""
    small, down = Partition("small", nodes=("n1",)), Partition("down", up=False, nodes=("n1", "n2"))
    main = Partition("main", is_default=True, nodes=("n1", "n2"))
    slurm = FakeSlurm(("n1", "n2"), partitions=(main, small, down), clock=clock)
    submit(slurm, "-p small", "-N2")
    submit(slurm, "-p down")
    submit(slurm, "-N2")
    assert [(job.state.value, job.reason) for job in slurm.jobs()] == [
        ("PENDING", "PartitionConfig"),
        ("PENDING", "PartitionDown"),
        ("RUNNING", ""),
    ]


def test_calls_and_submissions_are_remembered(slurm: FakeSlurm) -> None:
    """A test can ask what was done."""
    job_id = submit(slurm, "--job-name=x")
    slurm.cancel(job_id)
    assert slurm.calls == ["submit", "cancel"]
    assert "--job-name=x" in slurm.submission(job_id).script
    slurm.forget(job_id)
    assert slurm.jobs() == []
