"""The delay after a requeue is lifted soon, but not too soon."""

from __future__ import annotations

from dataclasses import replace

from hpctrain.ids import JobId
from hpctrain.slurm.model import Job, JobState
from hpctrain.slurm.requeue_delay import SAFE_AFTER_S, DelayWatch

WAITING = Job(JobId(1), "j", "u", JobState.PENDING, reason="BeginTime")


def test_delay_is_lifted_a_few_seconds_after_the_old_start_is_cleaned_up() -> None:
    """A start within the second of the old credentials' end would make Slurm fail the job."""
    watch = DelayWatch()
    assert [watch.may_lift(WAITING, now) for now in (100.0, 101.0, 100.0 + SAFE_AFTER_S)] == [False, False, True]


def test_time_counts_from_the_end_of_cleaning_up() -> None:
    """While a node is still being cleaned up, or the job runs again, nothing is lifted and the count starts anew."""
    watch = DelayWatch()
    completing = replace(WAITING, flags=frozenset({"COMPLETING"}))
    assert not watch.may_lift(WAITING, 0.0)
    assert not watch.may_lift(completing, 50.0)
    assert not watch.may_lift(WAITING, 51.0)
    assert not watch.may_lift(replace(WAITING, state=JobState.RUNNING), 90.0)
    assert not watch.may_lift(replace(WAITING, reason="Priority"), 91.0)
    assert not watch.may_lift(WAITING, 92.0)
    assert watch.may_lift(WAITING, 92.0 + SAFE_AFTER_S)


def test_each_requeue_waits_for_itself() -> None:
    """A start that fails between two looks does not shorten the wait after its own requeue."""
    watch = DelayWatch()
    assert not watch.may_lift(WAITING, 0.0)
    assert not watch.may_lift(replace(WAITING, restarts=1), SAFE_AFTER_S)
    assert watch.may_lift(replace(WAITING, restarts=1), 2 * SAFE_AFTER_S)
