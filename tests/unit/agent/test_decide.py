"""The decision after the ranks are gone: finish, requeue, fail, or leave alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from hpctrain.agent.decide import (
    Action,
    Decision,
    End,
    History,
    Limits,
    attempt_of,
    cause_of,
    decide,
    slurms_notice,
    why_told_to_end,
)
from hpctrain.agent.rank_result import RankExit
from hpctrain.ids import JobId
from hpctrain.slurm.model import Job, JobState
from hpctrain.train.environment import EXIT_DIVERGED, EXIT_REWIND
from hpctrain.watchdog.budget import Attempt, BudgetLimits, Cause, Verdict, judge

FAILED = RankExit(rank=3, node="n2", returncode=1, time=10.0, message="ValueError: boom")
LIMITS = Limits()
BUDGET = BudgetLimits(max_restarts=3, max_restarts_without_progress=1, max_same_failure=9)
YES = Verdict(restart=True, reason="", rule="")
NO = Verdict(restart=False, reason="it was restarted 3 times, which is its limit", rule="max_restarts")


def series(ends: Iterable[End], limits: Limits = LIMITS, budget: BudgetLimits = BUDGET) -> list[Decision]:
    """What is decided about one end after the other, with the budget as it stands then."""
    history, attempts, made = History(0), list[Attempt](), []
    for count, end in enumerate(ends):
        attempts.append(attempt_of(end, history, "R3", 1000.0 * count))
        verdict = judge(attempts, budget, now=1000.0 * count, nodes_usable=None, nodes_needed=1)
        made.append(decide(end, verdict, limits))
        best = max((step for step in (end.best_step, history.best_step) if step is not None), default=None)
        history = History(history.incarnation + 1, best)
    return made


def test_complete_work_finishes() -> None:
    """All ranks done: exit code 0."""
    decision = decide(End(done=True, best_step=10), YES, LIMITS)
    assert (decision.action, decision.exit_code) == (Action.FINISH, 0)


def test_cancelled_job_is_left_alone_even_after_a_stop_request() -> None:
    """A person's scancel is final: also when the ranks had just saved because the time limit was near."""
    end = End(stopped=True, stop_reason="the time limit is near", terminated=True, job_state=JobState.CANCELLED, best_step=5)
    assert decide(end, YES, LIMITS).action is Action.LEAVE


@pytest.mark.parametrize("state", [JobState.PREEMPTED, JobState.PENDING, JobState.RUNNING, JobState.UNKNOWN, None])
def test_sigterm_never_requeues_unless_the_time_limit_sent_it(state: JobState | None) -> None:
    """Slurm itself requeues what it preempts; when it does not say why, nothing is done."""
    end = End(failure=FAILED, terminated=True, job_state=state, best_step=5)
    assert decide(end, YES, LIMITS).action is Action.LEAVE


def test_ranks_that_saved_in_the_grace_time_of_a_preemption_continue() -> None:
    """SIGTERM to a job that Slurm calls RUNNING, answered by saving and stopping: queued again, no failure counted."""
    end = End(stopped=True, stop_reason="the job was sent SIGTERM", terminated=True, job_state=JobState.RUNNING, best_step=5)
    decision = decide(end, YES, LIMITS)
    assert decision.action is Action.REQUEUE and not attempt_of(end, History(0), "R3", 1.0).counted
    assert "grace time" in decision.reason
    assert decide(end, YES, replace(LIMITS, requeue=False)).action is Action.FAIL
    for state in (JobState.CANCELLED, JobState.PREEMPTED, JobState.PENDING, None):
        assert decide(replace(end, job_state=state), YES, LIMITS).action is Action.LEAVE


@pytest.mark.parametrize("end", [
    End(terminated=True, job_state=JobState.TIMEOUT, best_step=5),
    End(stopped=True, stop_reason="the time limit is near", best_step=9),
])
def test_the_time_limit_continues_the_job_and_counts_no_failure(end: End) -> None:
    """A job that Slurm ended at its limit, or that saved just before, goes on in the next start at no cost."""
    assert decide(end, YES, LIMITS).action is Action.REQUEUE
    attempt = attempt_of(end, History(0), "R3", 1.0)
    assert (attempt.cause, attempt.counted) == (Cause.TIME_LIMIT, False)


def test_trainer_may_ask_to_be_started_again_by_itself() -> None:
    """Exit code 75 without a stop request requeues too."""
    assert decide(End(stopped=True, best_step=1), YES, LIMITS).action is Action.REQUEUE


def test_starts_too_short_for_one_step_do_not_go_on_for_ever() -> None:
    """Time-limit continuations that complete no new step end with the reason."""
    end = End(stopped=True, stop_reason="the time limit is near", best_step=4)
    made = series([end] * 4)
    assert made[-1].action is Action.FAIL and made[0].action is Action.REQUEUE
    assert made[-1].rule == "no_progress"


def test_scripts_of_unknown_progress_continue_at_every_time_limit() -> None:
    """For a user's own script nobody can judge progress, so its continuations are not limited."""
    end = End(stopped=True, stop_reason="the time limit is near", ran_s=60)
    assert {one.action for one in series([end] * 10, replace(LIMITS, is_trainer=False))} == {Action.REQUEUE}


def test_failure_with_progress_is_restarted_up_to_the_budget() -> None:
    """Each start completes new steps, so only max_restarts ends the series."""
    made = series(End(failure=replace(FAILED, message=f"boom {step}"), best_step=step * 10) for step in range(1, 5))
    assert [one.action for one in made] == [Action.REQUEUE] * 3 + [Action.FAIL]
    assert made[-1].rule == "max_restarts"


def test_same_crash_without_a_new_step_stops_with_the_cause() -> None:
    """A bug at step 7 comes back at step 7: after the budget the job fails with the rank's own exit code and error."""
    made = series([End(failure=FAILED, best_step=6)] * 4)
    (*before, last) = made[: [one.action for one in made].index(Action.FAIL) + 1]
    assert {one.action for one in before} == {Action.REQUEUE} and len(before) <= 2
    assert last.reason.startswith("rank 3 on n2 ended with exit code 1: ValueError: boom; ")
    assert last.exit_code == 1


def test_killed_rank_gives_the_shells_exit_code() -> None:
    """A rank that was killed by signal 9 fails the job with 137, as a shell would."""
    decision = decide(End(failure=replace(FAILED, returncode=-9, message="")), NO, LIMITS)
    assert (decision.action, decision.exit_code) == (Action.FAIL, 137)
    assert "was killed by SIGKILL" in decision.reason


def test_errors_that_only_the_user_can_mend_are_not_repeated() -> None:
    """Our trainer's exit code for a wrong recipe fails at once; the same code of a user's script does not."""
    end = End(failure=replace(FAILED, returncode=3), best_step=None)
    assert decide(end, YES, LIMITS).action is Action.FAIL
    assert decide(end, YES, replace(LIMITS, is_trainer=False)).action is Action.REQUEUE


def test_lost_node_is_named_rather_than_the_ranks_it_took_along() -> None:
    """Peers of a dead node fail because of it; the node is the cause."""
    end = End(failure=FAILED, lost_nodes=("n1",), best_step=3)
    decision = decide(end, YES, LIMITS)
    assert (decision.action, decision.reason.split(";")[0]) == (Action.REQUEUE, "node n1 was lost")
    attempt = attempt_of(end, History(0), "R2", 1.0)
    assert (attempt.cause, attempt.nodes, attempt.fingerprint) == (Cause.NODE, ("n1",), "")


def test_lost_nodes_say_nothing_against_a_script_of_unknown_progress() -> None:
    """Three nodes lost within minutes are bad luck; three crashes of the program within minutes are not."""
    script = replace(LIMITS, is_trainer=False)
    lost = series([End(lost_nodes=("n1",), ran_s=60)] * 3, script)
    crashed = series([End(failure=replace(FAILED, message=str(at)), ran_s=60) for at in range(3)], script)

    assert [Action.REQUEUE] * 3 == [one.action for one in lost]
    assert Action.FAIL is crashed[-1].action


def test_requeue_false_fails_instead() -> None:
    """A recipe that forbids requeueing gets neither restarts nor continuations."""
    limits = replace(LIMITS, requeue=False)
    for end in (End(failure=FAILED), End(stopped=True, stop_reason="the time limit is near")):
        assert decide(end, YES, limits).action is Action.FAIL


@pytest.mark.parametrize(("message", "cause"), [
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", Cause.GPU_MEMORY),
    ("MemoryError", Cause.HOST_MEMORY), ("RuntimeError: [enforce fail] can't allocate memory", Cause.HOST_MEMORY),
    ("ValueError: boom", Cause.RANK),
])
def test_memory_that_ran_out_is_told_from_other_errors(message: str, cause: Cause) -> None:
    """The rank's own words say which memory was too small."""
    assert cause is cause_of(End(failure=replace(FAILED, message=message)))


def test_a_rank_that_wants_to_rewind_is_no_crash() -> None:
    """The trainer's exit code for a bad loss is the loss, and goes on."""
    end = End(failure=replace(FAILED, returncode=EXIT_REWIND))
    assert (cause_of(end), decide(end, YES, LIMITS).action) == (Cause.LOSS, Action.REQUEUE)
    assert decide(End(failure=replace(FAILED, returncode=EXIT_DIVERGED)), YES, LIMITS).action is Action.FAIL


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
