"""How often a job may start again: every rule, its limit, and what does not count."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpctrain.submit.plan_model import Plan, RankCommand, SlurmRequest
from hpctrain.watchdog.budget import Attempt, BudgetLimits, Cause, Verdict, excluded_until, judge

NOW = 1_000_000.0
LIMITS = BudgetLimits()


def attempt(
    cause: Cause = Cause.RANK, *, ago: float = 0.0, progressed: bool = True, fingerprint: str = "",
    nodes: tuple[str, ...] = (),
) -> Attempt:
    """A failure ``ago`` seconds before now."""
    return Attempt(NOW - ago, cause, "R1", 0, 7, progressed, fingerprint, nodes)


def verdict(*attempts: Attempt, limits: BudgetLimits = LIMITS, usable: int | None = 10, needed: int = 4) -> Verdict:
    """The judgement now."""
    return judge(attempts, limits, now=NOW, nodes_usable=usable, nodes_needed=needed)


def test_nothing_failed() -> None:
    """Without a failure nothing stops the job."""
    assert verdict().restart


def test_a_failure_is_restarted_and_counted() -> None:
    """The reason says how many restarts are used up."""
    found = verdict(attempt(ago=50), attempt(Cause.PREEMPTION, ago=20), attempt())
    assert (found.restart, found.rule, found.reason) == (True, "", "restart 2 of at most 20")


def test_the_same_failure_three_times_is_a_bug() -> None:
    """The first may have come further than before; the third in a row with no new step is the end."""
    first = attempt(ago=90, fingerprint="boom")
    again = attempt(progressed=False, fingerprint="boom")
    assert verdict(first, again).restart
    found = verdict(first, replace(again, time=NOW - 30), again)
    assert (found.restart, found.rule) == (False, "same_failure")
    assert "3 times in a row" in found.reason


def test_the_same_failure_with_progress_between_goes_on() -> None:
    """A job that fails the same way every day but comes further each time is no deterministic bug."""
    failures = [attempt(ago=100_000 * n, fingerprint="boom") for n in range(6, 0, -1)]
    assert verdict(*failures).restart


def test_another_failure_breaks_the_row_and_a_preemption_does_not() -> None:
    """Only counted failures with other fingerprints end a row of equal ones."""
    limits = replace(LIMITS, max_restarts_without_progress=10)
    boom = attempt(progressed=False, fingerprint="boom")
    other, preempted = replace(boom, fingerprint="bang"), replace(boom, cause=Cause.PREEMPTION, fingerprint="")
    assert verdict(boom, boom, other, boom, limits=limits).restart
    assert verdict(boom, boom, preempted, boom, limits=limits).rule == "same_failure"


def test_failures_without_a_fingerprint_are_not_the_same() -> None:
    """Nothing is known about them, so that rule says nothing."""
    limits = replace(LIMITS, max_restarts_without_progress=10)
    assert verdict(*[attempt(progressed=False)] * 5, limits=limits).restart


def test_no_progress() -> None:
    """Two restarts in a row may come no further; the third failure is the end."""
    stuck = attempt(progressed=False)
    assert verdict(attempt(), stuck, stuck).restart
    assert verdict(attempt(), stuck, stuck, stuck).rule == "no_progress"
    assert verdict(stuck, stuck, attempt(), stuck, stuck).restart


@pytest.mark.parametrize("cause", [Cause.TIME_LIMIT, Cause.PREEMPTION, Cause.MAINTENANCE])
def test_what_slurm_ends_counts_only_without_progress(cause: Cause) -> None:
    """A hundred preemptions use up nothing while steps are made; a start too short for one step is not repeated for ever."""
    assert verdict(*[attempt(cause)] * 100).restart
    assert verdict(attempt(), *[attempt(cause, progressed=False)] * 3).rule == "no_progress"


def test_window() -> None:
    """Ten restarts in an hour; the eleventh failure in it stops, one that is older does not count."""
    failures = [attempt(ago=10 * n) for n in range(10, -1, -1)]
    assert verdict(*failures).rule == "window"
    assert "within 1 hour" in verdict(*failures).reason
    assert verdict(replace(failures[0], time=NOW - 3600), *failures[1:]).restart


def test_life() -> None:
    """Twenty restarts over the life of the run, however slowly they come."""
    failures = [attempt(ago=10_000 * n) for n in range(20, -1, -1)]
    assert verdict(*failures[1:]).restart
    assert verdict(*failures).rule == "max_restarts"
    assert not verdict(attempt(), limits=replace(LIMITS, max_restarts=0)).restart


def test_a_node_is_left_out_after_two_faults_for_a_day() -> None:
    """Two faults within the window; the exclusion ends a day after the newer one."""
    faults = (attempt(Cause.NODE, ago=5000, nodes=("n1", "n1")), attempt(Cause.NODE, ago=100, nodes=("n1", "n2")))
    assert verdict(*faults).exclude == ("n1",)
    assert excluded_until(faults, LIMITS, "n1") == NOW - 100 + 86400
    assert excluded_until(faults, LIMITS, "n9") is None
    later = judge(faults, LIMITS, now=NOW - 100 + 86400, nodes_usable=10, nodes_needed=4)
    assert later.exclude == ()


def test_faults_far_apart_do_not_add_up() -> None:
    """One fault a week is no repeat offender."""
    week = 7 * 86400
    assert verdict(attempt(Cause.NODE, ago=week, nodes=("n1",)), attempt(Cause.NODE, nodes=("n1",))).exclude == ()


@pytest.mark.parametrize(("usable", "exclude"), [(6, ("n1", "n2")), (5, ("n2",)), (4, ()), (2, ()), (None, ())])
def test_exclusions_leave_nodes_enough(usable: int | None, exclude: tuple[str, ...]) -> None:
    """The worst offender goes first; a job that needs every node gets none excluded, nor one whose choice is not known."""
    faults = [attempt(Cause.NODE, ago=9, nodes=("n2",))] + [attempt(Cause.NODE, ago=5, nodes=("n1", "n2"))] * 2
    assert verdict(*faults, usable=usable).exclude == exclude


def test_attempt_survives_json() -> None:
    """What is written is read back; a cause from the future is UNKNOWN; anything else is refused."""
    written = attempt(Cause.HANG, fingerprint="x", nodes=("n1",), progressed=False)
    assert Attempt.from_json(written.to_json()) == written
    assert Attempt.from_json({**written.to_json(), "cause": "gremlins"}).cause is Cause.UNKNOWN
    for broken in ({}, {**written.to_json(), "time": "soon"}, {**written.to_json(), "incarnation": None}):
        with pytest.raises(ValueError, match="no attempt"):
            Attempt.from_json(broken)


def test_limits_come_from_the_plan() -> None:
    """Every limit of the recipe reaches the judge."""
    plan = Plan(
        run_name="r", run_dir="/r", python="python3", nodes=2, spares=0, ranks_per_node=1, device="cpu",
        command=RankCommand(("true",), "/"), slurm=SlurmRequest("r", 2, "/r/out"), max_restarts=1,
        max_restarts_without_progress=2, restarts_per_window=3, restart_window_s=4, max_same_failure=5, exclude_after=6,
        exclude_window_s=7, exclude_for_s=8,
    )
    assert BudgetLimits.from_plan(Plan.from_json(plan.to_json())) == BudgetLimits(1, 2, 3, 4.0, 5, 6, 7.0, 8.0)
