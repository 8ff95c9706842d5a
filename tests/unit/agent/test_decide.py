"""The decision after the ranks are gone: finish, requeue, fail, or leave alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpctrain.agent.decide import Action, End, History, Limits, decide, slurms_notice, why_told_to_end
from hpctrain.agent.rank_result import RankExit
from hpctrain.ids import JobId
from hpctrain.slurm.model import Job, JobState

FAILED = RankExit(rank=3, node="n2", returncode=1, time=10.0, message="ValueError: boom")
LIMITS = Limits(max_restarts=3, max_restarts_without_progress=1)


def test_complete_work_finishes() -> None:
    """All ranks done: exit code 0, nothing to remember but the best step."""
    decision = decide(End(done=True, best_step=10), History(0, best_step=4), LIMITS)
    assert (decision.action, decision.exit_code, decision.history.best_step) == (Action.FINISH, 0, 10)


def test_cancelled_job_is_left_alone_even_after_a_stop_request() -> None:
    """A person's scancel is final: also when the ranks had just saved because the time limit was near."""
    end = End(stopped=True, stop_reason="the time limit is near", terminated=True, job_state=JobState.CANCELLED, best_step=5)
    assert decide(end, History(0), LIMITS).action is Action.LEAVE


@pytest.mark.parametrize("state", [JobState.PREEMPTED, JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN, None])
def test_sigterm_never_requeues_unless_the_time_limit_sent_it(state: JobState | None) -> None:
    """Slurm itself requeues what it preempts; when it does not say why, nothing is done."""
    end = End(failure=FAILED, terminated=True, job_state=state, best_step=5)
    assert decide(end, History(0), LIMITS).action is Action.LEAVE


def test_ranks_that_saved_in_the_grace_time_of_a_preemption_continue() -> None:
    """SIGTERM to a job that Slurm calls RUNNING, answered by saving and stopping: queued again, no failure counted."""
    end = End(stopped=True, stop_reason="the job was sent SIGTERM", terminated=True, job_state=JobState.RUNNING, best_step=5)
    decision = decide(end, History(0), LIMITS)
    assert (decision.action, decision.history.failures) == (Action.REQUEUE, 0)
    assert "grace time" in decision.reason
    assert decide(end, History(0), replace(LIMITS, requeue=False)).action is Action.FAIL
    for state in (JobState.CANCELLED, JobState.PREEMPTED, JobState.PENDING, None):
        assert decide(replace(end, job_state=state), History(0), LIMITS).action is Action.LEAVE


def test_time_limit_that_overtook_the_save_continues_the_job() -> None:
    """A job that Slurm ended at its limit goes on in the next start, without counting a failure."""
    end = End(terminated=True, job_state=JobState.TIMEOUT, best_step=5)
    decision = decide(end, History(0), LIMITS)
    assert (decision.action, decision.history.failures) == (Action.REQUEUE, 0)


def test_stop_at_the_time_limit_continues_and_counts_no_failure() -> None:
    """A clean stop is not a failure, and progress clears the count of fruitless starts."""
    end = End(stopped=True, stop_reason="the time limit is near", best_step=9)
    decision = decide(end, History(2, failures=1, failures_without_progress=1, best_step=4), LIMITS)
    assert (decision.action, decision.reason) == (Action.REQUEUE, "the time limit is near")
    assert decision.history == History(2, failures=1, failures_without_progress=0, best_step=9)


def test_trainer_may_ask_to_be_started_again_by_itself() -> None:
    """Exit code 75 without a stop request requeues too."""
    assert decide(End(stopped=True, best_step=1), History(0), LIMITS).action is Action.REQUEUE


def test_starts_too_short_for_one_step_do_not_go_on_for_ever() -> None:
    """Time-limit continuations that complete no new step end with the reason."""
    history, end = History(0, best_step=4), End(stopped=True, stop_reason="the time limit is near", best_step=4)
    actions = []
    for _ in range(3):
        decision = decide(end, history, LIMITS)
        actions.append(decision.action)
        history = decision.history
    assert actions == [Action.REQUEUE, Action.FAIL, Action.FAIL]
    assert "without a new completed step" in decision.reason


def test_scripts_of_unknown_progress_continue_at_every_time_limit() -> None:
    """For a user's own script nobody can judge progress, so its continuations are not limited."""
    end = End(stopped=True, stop_reason="the time limit is near", ran_s=60)
    history = History(0)
    for _ in range(10):
        decision = decide(end, history, replace(LIMITS, is_trainer=False))
        history = decision.history
        assert decision.action is Action.REQUEUE


def test_failure_with_progress_is_restarted_up_to_the_budget() -> None:
    """Each start completes new steps, so only max_restarts ends the series."""
    history, actions = History(0), []
    for step in range(1, 6):
        decision = decide(End(failure=FAILED, best_step=step * 10), history, LIMITS)
        actions.append(decision.action)
        history = decision.history
    assert actions[:4] == [Action.REQUEUE] * 3 + [Action.FAIL]
    assert "restarted 3 times, which is its limit" in decide(End(failure=FAILED, best_step=99), History(0, 3), LIMITS).reason


def test_same_crash_without_a_new_step_stops_with_the_cause() -> None:
    """A bug at step 7 comes back at step 7: after the budget the job fails with the rank's own exit code and error."""
    history, actions = History(0), []
    for _ in range(3):
        decision = decide(End(failure=FAILED, best_step=6), history, LIMITS)
        actions.append(decision.action)
        history = decision.history
    assert actions == [Action.REQUEUE, Action.REQUEUE, Action.FAIL]
    assert decision.reason.startswith("rank 3 on n2 ended with exit code 1: ValueError: boom; 2 starts in a row")
    assert decision.exit_code == 1


def test_killed_rank_gives_the_shells_exit_code() -> None:
    """A rank that was killed by signal 9 fails the job with 137, as a shell would."""
    killed = replace(FAILED, returncode=-9, message="")
    decision = decide(End(failure=killed), History(0), replace(LIMITS, max_restarts=0))
    assert (decision.action, decision.exit_code) == (Action.FAIL, 137)
    assert "was killed by SIGKILL" in decision.reason


def test_errors_that_only_the_user_can_mend_are_not_repeated() -> None:
    """Our trainer's exit code for a wrong recipe fails at once; the same code of a user's script does not."""
    end = End(failure=replace(FAILED, returncode=3), best_step=None)
    assert decide(end, History(0), LIMITS).action is Action.FAIL
    assert decide(end, History(0), replace(LIMITS, is_trainer=False)).action is Action.REQUEUE


def test_lost_node_is_named_rather_than_the_ranks_it_took_along() -> None:
    """Peers of a dead node fail because of it; the node is the cause."""
    decision = decide(End(failure=FAILED, lost_nodes=("n1",), best_step=3), History(0), LIMITS)
    assert (decision.action, decision.reason.split(";")[0]) == (Action.REQUEUE, "node n1 was lost")


def test_requeue_false_fails_instead() -> None:
    """A recipe that forbids requeueing gets neither restarts nor continuations."""
    limits = replace(LIMITS, requeue=False)
    for end in (End(failure=FAILED), End(stopped=True, stop_reason="the time limit is near")):
        assert decide(end, History(0), limits).action is Action.FAIL


def completing(**changes: object) -> Job:
    job = Job(JobId(1), "j", "u", JobState.RUNNING, frozenset({"COMPLETING"}), start_time=1000.0, time_limit_s=600)
    return replace(job, **changes)  # type: ignore[arg-type]


NOTICE = "slurmstepd-n1: error: *** JOB 41 ON n1 CANCELLED AT 2026-11-21T02:43:34 DUE TO TIME LIMIT ***"


def test_slurms_hidden_state_is_read_from_its_notice() -> None:
    """COMPLETING hides why a job ends; Slurm's notice in the job's output tells."""
    ended = completing(end_time=1700.0)
    assert why_told_to_end(ended, "TIME LIMIT", 1701.0) is JobState.TIMEOUT
    assert why_told_to_end(ended, "PREEMPTION", 1701.0) is JobState.PREEMPTED
    assert why_told_to_end(ended, "NODE FAILURE, SEE SLURMCTLD LOG", 1701.0) is JobState.PENDING
    assert why_told_to_end(completing(end_time=None), "", 1100.0) is JobState.PENDING
    assert why_told_to_end(completing(end_time=6e9), "", 1100.0) is JobState.PENDING
    assert why_told_to_end(replace(completing(), flags=frozenset()), "TIME LIMIT", 1100.0) is JobState.RUNNING
    assert why_told_to_end(completing(state=JobState.TIMEOUT, end_time=1100.0), "", 1101.0) is JobState.TIMEOUT


def test_cancelling_an_overdue_job_is_still_cancelling() -> None:
    """Between the limit and its enforcement, up to a minute later, a scancel must not be taken for the time limit."""
    assert why_told_to_end(completing(end_time=1660.0), "", 1660.0) is JobState.CANCELLED


def test_notice_is_found_and_cannot_be_forged() -> None:
    """The newest notice about this very job counts; a rank that prints the same words does not."""
    assert slurms_notice(f"start\n{NOTICE}\nmore\n", 41) == "TIME LIMIT"
    assert slurms_notice(NOTICE.replace("slurmstepd-n1", "slurmstepd"), 41) == "TIME LIMIT"
    assert slurms_notice(f"2026-11-21T02:43:34.000Z {NOTICE}\n", 41) == ""
    assert slurms_notice(NOTICE, 4) == ""
    assert slurms_notice(f"{NOTICE}\n{NOTICE.replace(' DUE TO TIME LIMIT', '')}\n", 41) == ""
