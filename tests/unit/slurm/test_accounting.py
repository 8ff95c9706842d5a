"""Attempts become jobs: requeues are one job, a number given out again is another, PREEMPTED is not the end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.accounting import ABSENT_S, LONGEST_PAUSE_S, Attempt, by_job
from hpctrain.slurm.model import JobState

T0 = 1_800_000_000.0


def attempt(outcome: str, submit: float, start: float | None, end: float | None, **values: object) -> Attempt:
    """One attempt of job 7, with times in seconds after T0."""
    one = Attempt(
        JobId(7), "7", "c", "train", "alice", outcome=outcome,
        state=JobState[outcome] if outcome in JobState.__members__ else JobState.PENDING, submit_time=T0 + submit,
        start_time=None if start is None else T0 + start, end_time=None if end is None else T0 + end,
        elapsed_s=0.0 if start is None or end is None else end - start, nodes=(NodeName("n1"),) if start is not None else (),
    )  # fmt: skip
    return replace(one, **values)  # type: ignore[arg-type]


REQUEUED = attempt("REQUEUED", 0, 5, 100)
PREEMPTED = attempt("PREEMPTED", 0, 5, 100)
LATER = attempt("RUNNING", 100, 221, None)


@pytest.mark.parametrize("first", [REQUEUED, PREEMPTED, attempt("NODE_FAIL", 0, 5, 100), attempt("COMPLETED", 0, 5, 90)])
def test_job_that_was_queued_again_is_one_job(first: Attempt) -> None:
    """Whatever word ended its first attempt, the second goes on with it, in whatever order they come."""
    (job,) = by_job([LATER, first])
    assert job.attempts == (first, LATER)
    assert (job.requeues, job.submit_time, job.newest) == (1, T0, LATER)


def test_requeue_within_a_second_of_the_submission_is_in_order() -> None:
    """Slurm's times are whole seconds: what has started came first."""
    first, second = attempt("REQUEUED", 0, 0, 0), attempt("PENDING", 0, None, None)
    (job,) = by_job([second, first])
    assert job.attempts == (first, second)


@pytest.mark.parametrize("other", [
    {"name": "other"}, {"user": "bob"}, {"cluster": "d"}, {"submit_time": T0 + 100 + LONGEST_PAUSE_S + 1},
])  # fmt: skip
def test_number_that_was_given_out_again_is_another_job(other: dict[str, object]) -> None:
    """Another name, user or cluster, or a long time between them, tell two jobs with the same number apart."""
    assert len(by_job([attempt("COMPLETED", 0, 5, 100), replace(LATER, **other)])) == 2  # type: ignore[arg-type]


def test_requeue_survives_a_new_name_and_a_long_wait() -> None:
    """Slurm says REQUEUED: the job goes on, also if it was renamed and waited for days."""
    late = replace(LATER, name="renamed", submit_time=T0 + 900_000)
    assert len(by_job([REQUEUED, late])) == 1


def test_preempted_job_is_not_over() -> None:
    """It may be in the queue, or about to be; only what the controller has not had for a while is over."""
    (job,) = by_job([PREEMPTED])
    now = T0 + 100 + ABSENT_S
    assert not job.over(now, in_queue=True)
    assert not job.over(now)
    assert not job.over(now - 1, in_queue=False)
    assert job.over(now, in_queue=False)


@pytest.mark.parametrize("outcome", ["COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY"])
def test_ends_are_ends(outcome: str) -> None:
    """Other ends need no confirmation."""
    (job,) = by_job([attempt(outcome, 0, 5, 100)])
    assert job.over(T0 + 101)


def test_running_job_is_not_over() -> None:
    """Whatever the controller says: the database may be behind."""
    (job,) = by_job([LATER])
    assert not job.over(T0 + 1e6, in_queue=False)


@pytest.mark.parametrize(
    ("since", "until", "seconds"), [(0, 1000, 100.0), (150, 1000, 50.0), (0, 120, 20.0), (300, 400, 0.0), (0, 50, 0.0)],
)
def test_only_the_window_counts(since: float, until: float, seconds: float) -> None:
    """Time outside the window is not counted."""
    one = attempt("COMPLETED", 0, 100, 200)
    assert one.seconds_between(T0 + since, T0 + until) == seconds


def test_running_counts_until_the_end_of_the_window_and_suspension_does_not_count() -> None:
    """An attempt without an end runs on; one that was suspended for half of its time counts half."""
    assert LATER.seconds_between(T0, T0 + 321) == 100.0
    assert attempt("COMPLETED", 0, 100, 200, elapsed_s=50.0).seconds_between(T0, T0 + 150) == 25.0
    assert attempt("PENDING", 0, None, None).seconds_between(T0, T0 + 321) == 0.0
