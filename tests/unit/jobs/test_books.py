"""Database, controller and run directories put together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.books import as_job, from_events, from_queue, runaways, with_queue
from hpctrain.jobs.event import Event
from hpctrain.jobs.goodput import Size
from hpctrain.slurm.accounting import AccountedJob, Attempt, Tres, by_job
from hpctrain.slurm.model import Job, JobState

T0 = 1_800_000_000.0
NODES = (NodeName("n1"), NodeName("n2"))
HELD = Tres(64, 8, "h100", 1000, 2)
RUNNING = Attempt(
    JobId(7), "7", "c", "train", "alice", outcome="RUNNING", state=JobState.RUNNING, submit_time=T0, start_time=T0 + 5,
    held=HELD, nodes=NODES,
)  # fmt: skip
JOB = Job(JobId(7), "train", "alice", JobState.RUNNING, nodes=NODES, num_nodes=2, submit_time=T0, start_time=T0 + 5)


def test_end_that_the_database_has_not_heard_of_is_taken_from_the_queue() -> None:
    """What the attempt held is still the database's."""
    done = replace(JOB, state=JobState.COMPLETED, end_time=T0 + 65, exit_code=0)
    (one,) = with_queue([RUNNING], [done])
    assert (one.outcome, one.end_time, one.elapsed_s, one.held) == ("COMPLETED", T0 + 65, 60.0, HELD)


def test_requeue_that_the_database_has_not_heard_of_ends_an_attempt() -> None:
    """The controller has the job with a later submission: it was queued again."""
    waiting = replace(JOB, state=JobState.PENDING, nodes=(), submit_time=T0 + 100, start_time=None)
    (job,) = by_job(with_queue([RUNNING], [waiting]))
    assert [(one.outcome, one.end_time) for one in job.attempts] == [("REQUEUED", T0 + 100), ("PENDING", None)]
    assert job.attempts[0].elapsed_s == 95.0


def test_job_that_the_database_does_not_know_is_added() -> None:
    """With what its plan says that it holds."""
    (one,) = with_queue([], [JOB], {JobId(7): Size(2, 16)})
    assert (one.outcome, one.held.nodes, one.held.gpus) == ("RUNNING", 2, 16)


def test_what_is_over_in_the_database_stays_so() -> None:
    """The controller still remembers the same attempt."""
    over = replace(RUNNING, outcome="COMPLETED", state=JobState.COMPLETED, end_time=T0 + 65, elapsed_s=60.0)
    assert with_queue([over], [replace(JOB, state=JobState.COMPLETED, end_time=T0 + 65)]) == [over]


def test_old_job_with_the_same_number_is_left_alone() -> None:
    """A database that outlives its cluster: the queue's job is another."""
    old = replace(RUNNING, outcome="COMPLETED", state=JobState.COMPLETED, submit_time=T0 - 1e6, end_time=T0 - 9e5)
    first, second = with_queue([old], [JOB])
    assert first == old
    assert second.live


def test_runaways_run_in_the_database_only() -> None:
    """Those of others are judged only where the queue shows others' jobs at all."""
    theirs = replace(RUNNING, job_id=JobId(8), user="bob")
    assert runaways([RUNNING, theirs], [], "alice") == {7}
    assert runaways([RUNNING, theirs], [replace(JOB, job_id=JobId(9), user="eve")], "alice") == {7, 8}
    assert runaways([RUNNING], [JOB], "alice") == set()


def test_pending_job_in_the_queue_holds_nothing() -> None:
    """Slurm's expected start is no start."""
    one = from_queue(replace(JOB, state=JobState.PENDING, nodes=(), start_time=T0 + 900))
    assert (one.start_time, one.held, one.live) == (None, Tres(), True)


BASE = Attempt(JobId(7), "7", "c", "train", "alice", submit_time=T0, held=Tres(nodes=2, gpus=16))


def events(*told: tuple[float, str]) -> list[Event]:
    """A run's job events."""
    return [Event(T0 + when, "coordinator", f"job.{kind}", JobId(7)) for when, kind in told]


def test_events_tell_attempts() -> None:
    """Started, requeued, started, finished: two attempts that held their nodes."""
    found = from_events(
        events((5, "started"), (65, "requeued"), (200, "started"), (500, "finished")), BASE, job=None, last_trace=None
    )
    assert [(one.outcome, one.elapsed_s) for one in found] == [("REQUEUED", 60.0), ("COMPLETED", 300.0)]
    assert found[1].submit_time == T0 + 65
    assert len(by_job(found)) == 1


def test_attempt_without_an_end_lasts_to_the_last_trace() -> None:
    """A job that was cut off has written until then."""
    (one,) = from_events(events((5, "started")), BASE, job=None, last_trace=T0 + 105)
    assert (one.outcome, one.elapsed_s, one.live) == ("UNKNOWN", 100.0, False)


@pytest.mark.parametrize(
    ("told", "state", "live"),
    [(((5.0, "started"),), JobState.RUNNING, True), ((), JobState.RUNNING, True), ((), JobState.PENDING, True),
     (((5.0, "started"), (9.0, "requeued")), JobState.PENDING, True), (((5.0, "started"),), JobState.TIMEOUT, False)],
)  # fmt: skip
def test_queue_says_whether_it_goes_on(told: tuple[tuple[float, str], ...], state: JobState, live: bool) -> None:
    """The events end where the job is now; the controller knows whether it lives."""
    job = replace(JOB, state=state, end_time=T0 + 65 if state.finished else None)
    found = from_events(events(*told), BASE, job=job, last_trace=T0 + 30)
    assert found[-1].live is live
    assert found[-1].outcome == state.value


def test_run_that_never_started_has_one_attempt() -> None:
    """It waited, and was cancelled there."""
    job = replace(JOB, state=JobState.CANCELLED, nodes=(), end_time=T0 + 50)
    (one,) = from_events([], BASE, job=job, last_trace=None)
    assert (one.outcome, one.ran, one.end_time, one.held) == ("CANCELLED", False, T0 + 50, Tres())


def test_accounted_job_can_stand_in_for_a_forgotten_one() -> None:
    """With the number of its restarts, its end and its exit code; not while it may go on."""
    first = replace(RUNNING, outcome="NODE_FAIL", state=JobState.NODE_FAIL, end_time=T0 + 50)
    last = replace(RUNNING, outcome="FAILED", state=JobState.FAILED, submit_time=T0 + 50, end_time=T0 + 90, exit_code=3)
    job = as_job(AccountedJob((first, last)), T0 + 100)
    assert job is not None
    assert (job.state, job.restarts, job.exit_code, job.submit_time) == (JobState.FAILED, 1, 3, T0)
    assert as_job(AccountedJob((RUNNING,)), T0 + 100, in_queue=False) is None
    assert as_job(AccountedJob((first,)), T0 + 100, in_queue=False) is None
    assert as_job(AccountedJob((first,)), T0 + 1000, in_queue=False) is not None
