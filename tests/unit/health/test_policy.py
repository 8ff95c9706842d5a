"""The policy about nodes: who decides, the ladder, flaps, settling, lemons and the breaker."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.health.finding import Action
from hpctrain.health.policy import Decision, Deed, Facts, Fleet, Limits, Step, decide, lemon_score, permitted

NOW = 1_000_000.0
DAY = 86_400.0
FAULT = "xid/gpu3"
BAD = Facts("n1", drained=True, reason="hpctrain: xid: GPU 3", fault=FAULT, action=Action.REBOOT.value, verdict_time=NOW)
HEALED = replace(BAD, fault="", action="", healthy_since=NOW - 1000)


def ask(facts: Facts, *history: Deed, fleet: Fleet | None = None, limits: Limits | None = None) -> Decision:
    """The decision now."""
    return decide(facts, history, fleet or Fleet(100), limits or Limits(), NOW)


def told(decision: Decision) -> tuple[Step, str]:
    """What and by which rule."""
    return decision.step, decision.rule


def deed(step: Step, ago_s: float = 3600.0, fault: str = FAULT, node: str = "n1") -> Deed:
    """Something done some time ago."""
    return Deed(NOW - ago_s, node, step, fault)


def test_a_healthy_node_in_service_is_kept() -> None:
    """Nothing is done about a node without a fault."""
    assert (Step.KEEP, "healthy") == told(ask(Facts("n1")))


def test_a_faulty_node_is_drained() -> None:
    """A fault on a node in service drains it while breaker and rate permit."""
    assert (Step.DRAIN, "fault") == told(ask(replace(BAD, drained=False, reason="")))


@given(
    fault=st.sampled_from(["", FAULT]),
    action=st.sampled_from([action.value for action in Action]),
    booted=st.none() | st.floats(0, NOW),
    healthy=st.none() | st.floats(0, NOW),
    steps=st.lists(st.sampled_from(list(Step)), max_size=8),
    reason=st.text(max_size=20).filter(lambda text: not text.startswith("hpctrain:")),
)
def test_a_persons_drain_is_kept_whatever_else_is_known(
    fault: str, action: str, booted: float | None, healthy: float | None, steps: list[Step], reason: str
) -> None:
    """No fault, no recovery and no history touches a node with somebody else's reason."""
    facts = Facts("n1", True, reason, False, booted, fault, action, NOW, healthy)
    assert (Step.KEEP, "person") == told(ask(facts, *map(deed, steps)))


def test_the_ladder_climbs_from_reset_to_a_person() -> None:
    """The same fault leads to reset, reboot, reboot, replace, and then to a person."""
    facts = replace(BAD, action=Action.RESET.value)
    history: list[Deed] = []
    steps: list[Step] = []
    for number in range(5):
        step = ask(facts, *history).step
        steps.append(step)
        history.append(deed(step, 5000.0 - number))

    assert [Step.RESET, Step.REBOOT, Step.REBOOT, Step.REPLACE, Step.PERSON] == steps


def test_another_fault_begins_its_own_ladder() -> None:
    """Two reboots for one fault do not condemn the node for another."""
    history = [deed(Step.REBOOT, fault="edac/memory"), deed(Step.REBOOT, fault="edac/memory")]
    assert (Step.REBOOT, "ladder") == told(ask(BAD, *history))


def test_five_remedies_in_seven_days_call_a_person() -> None:
    """Whatever the faults were; remedies of eight days ago and of other nodes do not count."""
    recent = [deed(Step.RESET, DAY * number + 3600, fault=f"other/{number}") for number in range(5)]
    assert (Step.PERSON, "too many remedies") == told(ask(BAD, *recent))
    assert Step.REBOOT is ask(BAD, *recent[:4], deed(Step.RESET, 8 * DAY), deed(Step.RESET, node="n2")).step


@pytest.mark.parametrize(
    ("action", "step"),
    [
        (Action.CLEAN, Step.REBOOT),
        (Action.CONFIGURE, Step.PERSON),
        (Action.INSPECT, Step.PERSON),
        (Action.NONE, Step.PERSON),
        (Action.APP, Step.PERSON),
        (Action.RESET, Step.RESET),
        (Action.REBOOT, Step.REBOOT),
        (Action.REPLACE, Step.REPLACE),
    ],
)
def test_each_action_has_its_first_step(action: Action, step: Step) -> None:
    """What a check asks for decides where the ladder begins."""
    assert step is ask(replace(BAD, action=action.value)).step


def test_a_node_settles_after_its_boot() -> None:
    """For 120 s nothing is decided, and the decision says until when."""
    decision = ask(replace(BAD, drained=False, reason="", booted=NOW - 20))
    assert (Step.WAIT, "settle", NOW + 100) == (*told(decision), decision.due)
    assert Step.DRAIN is ask(replace(BAD, drained=False, reason="", booted=NOW - 120)).step


def test_running_jobs_are_waited_for() -> None:
    """A node is not rebooted under a job."""
    assert (Step.WAIT, "busy") == told(ask(replace(BAD, busy=True)))


def test_a_remedy_is_judged_by_a_later_verdict() -> None:
    """A verdict of before the reboot neither returns the node nor reboots it again, until the remedy has had its time."""
    before = NOW - 200
    for facts in (replace(BAD, verdict_time=before), replace(HEALED, verdict_time=before)):
        assert (Step.WAIT, "under way") == told(ask(facts, deed(Step.REBOOT, 100)))
    assert Step.REBOOT is ask(replace(BAD, verdict_time=NOW - 2000), deed(Step.REBOOT, 1900)).step


def test_a_node_without_a_verdict_is_waited_for() -> None:
    """What was never checked never returns by itself."""
    assert (Step.WAIT, "no verdict") == told(ask(replace(HEALED, verdict_time=None)))


def test_a_healed_node_returns_after_its_recovery_window() -> None:
    """Once healthy for a minute it returns, and every further drain in seven days doubles that time."""
    assert (Step.RETURN, "recovered") == told(ask(HEALED, deed(Step.DRAIN)))
    young = ask(replace(HEALED, healthy_since=NOW - 10), deed(Step.DRAIN))
    assert (Step.WAIT, "recovery window", NOW + 50) == (*told(young), young.due)
    flapping = ask(replace(HEALED, healthy_since=NOW - 100), *[deed(Step.DRAIN)] * 3)
    assert (Step.WAIT, NOW + 140) == (flapping.step, flapping.due)


def test_a_lemon_does_not_return_by_itself() -> None:
    """Drains and remedies add up, half as much after a week."""
    history = [deed(Step.DRAIN), deed(Step.REBOOT), deed(Step.DRAIN), deed(Step.REBOOT), deed(Step.DRAIN)]
    assert (Step.PERSON, "lemon") == told(ask(HEALED, *history, limits=Limits(lemon_score=6.0)))
    assert 1.0 == pytest.approx(lemon_score("n1", [deed(Step.REBOOT, 7 * DAY)], Limits(), NOW))


@pytest.mark.parametrize(("nodes", "most"), [(1, 1), (9, 1), (19, 1), (20, 2), (256, 25)])
def test_the_breaker_permits_a_tenth_and_at_least_one(nodes: int, most: int) -> None:
    """At the limit there is an alert and no drain."""
    facts = replace(BAD, drained=False, reason="")
    assert most == permitted(Fleet(nodes), Limits())
    assert Step.DRAIN is ask(facts, fleet=Fleet(nodes, most - 1)).step
    assert (Step.ALERT, "breaker") == told(ask(facts, fleet=Fleet(nodes, most)))


def test_too_many_drains_in_an_hour_only_alert() -> None:
    """The rate counts all nodes, and the alert says when the next drain is possible."""
    drains = [deed(Step.DRAIN, 600.0 + number, node=f"n{number}") for number in range(10)]
    decision = ask(replace(BAD, drained=False, reason=""), *drains)
    assert (Step.ALERT, "rate", NOW - 609 + 3600) == (*told(decision), decision.due)


def test_a_reboot_is_judged_by_a_check_of_after_the_boot() -> None:
    """A check between request and boot, or before the node has settled, says nothing about what the reboot did."""
    asked = deed(Step.REBOOT, 300)
    for facts in (
        replace(BAD, booted=NOW - 5000),
        replace(BAD, booted=NOW - 5000, rebooting=True),
        replace(BAD, booted=NOW - 140, verdict_time=NOW - 130),
    ):
        assert Step.WAIT is ask(facts, asked).step
    assert (Step.REBOOT, "ladder") == told(ask(replace(BAD, booted=NOW - 200), asked))


def test_a_node_that_does_not_come_back_calls_a_person() -> None:
    """Also one whose checks come to no verdict; with a known fault the ladder goes on."""
    gone = replace(HEALED, booted=NOW - 9000, verdict_time=None, healthy_since=None)
    assert (Step.PERSON, "did not come back") == told(ask(gone, deed(Step.REBOOT, 2000)))
    assert (Step.PERSON, "no verdict") == told(ask(replace(gone, booted=NOW - 1900), deed(Step.REBOOT, 2000)))
    faulty = replace(BAD, booted=NOW - 9000, verdict_time=NOW - 8000)
    assert (Step.REBOOT, "ladder") == told(ask(faulty, deed(Step.REBOOT, 2000)))


def test_a_stale_verdict_drains_nothing() -> None:
    """Half an hour without a check is an alert of its own."""
    old = replace(BAD, drained=False, reason="", verdict_time=NOW - 2000)
    assert (Step.ALERT, "stale") == told(ask(old))


def test_many_drained_nodes_hold_remedies_back() -> None:
    """What is wrong with all of them is not mended by rebooting them; returning a healthy one is always permitted."""
    assert (Step.ALERT, "breaker") == told(ask(BAD, fleet=Fleet(20, 3)))
    assert (Step.WAIT, "one after the other") == told(ask(BAD, fleet=Fleet(20, 2, 2)))
    assert (Step.REBOOT, "ladder") == told(ask(BAD, fleet=Fleet(20, 2, 1)))
    assert (Step.RETURN, "recovered") == told(ask(HEALED, deed(Step.DRAIN), fleet=Fleet(20, 3, 3)))


def test_what_was_to_be_replaced_does_not_return_by_itself() -> None:
    """Healthy or not: only a person knows whether the hardware was changed."""
    assert (Step.PERSON, "replaced") == told(ask(HEALED, deed(Step.DRAIN), deed(Step.REPLACE)))


def test_a_persons_reboot_is_no_remedy() -> None:
    """A reboot without a fault counts neither for the ladder nor for the five in seven days."""
    assert (Step.REBOOT, "ladder") == told(ask(BAD, *[deed(Step.REBOOT, fault="") for _ in range(6)]))
