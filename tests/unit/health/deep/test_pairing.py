"""Rounds of pairs find the bad node and leave its partners alone, whatever the fleet looks like."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.health.deep.baseline import Band, Baseline
from hpctrain.health.deep.judge import Verdict
from hpctrain.health.deep.pairing import Outcome, PairVerdict, conclude, next_round, pair_baseline

FAST, SLOW = 100.0, 20.0
STORED = Baseline(FAST, 0.0, 50, "stored")


def names(count: int) -> list[str]:
    """n1 to nN."""
    return [f"n{number}" for number in range(1, count + 1)]


def run_rounds(
    nodes: Sequence[str], value: Callable[[str, str], float | None], stored: Baseline | None
) -> tuple[dict[str, PairVerdict], list[Outcome]]:
    """Play the rounds to their end."""
    outcomes: list[Outcome] = []
    for number in range(1, 20):
        pairs = next_round(nodes, outcomes, stored, Band())
        if not pairs:
            break
        members = [node for pair in pairs for node in pair]
        assert len(members) == len(set(members)), "a node is in two pairs of one round"
        met = {frozenset((one.first, one.second)) for one in outcomes}
        assert not met & {frozenset(pair) for pair in pairs}, "a pair meets twice"
        outcomes += [Outcome(number, *pair, value(*pair)) for pair in pairs]
    found = conclude(nodes, outcomes, pair_baseline(outcomes, stored), Band())
    return {one.node: one for one in found}, outcomes


def slow_with(*bad: str) -> Callable[[str, str], float]:
    """A pair is slow if one of these is in it."""
    return lambda first, second: SLOW if first in bad or second in bad else FAST


@pytest.mark.parametrize("count", [3, 4, 5, 8, 9, 33])
@pytest.mark.parametrize("stored", [STORED, None])
def test_one_slow_node_is_found_and_its_partners_are_not_blamed(count: int, stored: Baseline | None) -> None:
    """Also without a stored baseline, and wherever it stands."""
    for bad in names(count):
        found, _ = run_rounds(names(count), slow_with(bad), stored)

        assert [bad] == [one.node for one in found.values() if one.blames]
        assert Verdict.SLOW is found[bad].verdict
        assert {Verdict.PASS} == {one.verdict for one in found.values() if one.node != bad}
        assert "2 different pairings" in found[bad].reason


def test_two_slow_nodes_that_meet_good_ones_are_both_found() -> None:
    """Every pair of the first round is slow: the second tells them apart, given a stored baseline."""
    found, _ = run_rounds(names(4), slow_with("n1", "n2"), STORED)

    assert {"n1", "n2"} == {one.node for one in found.values() if one.blames}


def test_a_healthy_fleet_needs_one_round() -> None:
    """Every node is in one pair; without a stored baseline in two. Of an odd number one goes later."""
    for count, stored, pairs in ((8, STORED, 4), (7, STORED, 4), (8, None, 8), (7, None, 8)):
        found, outcomes = run_rounds(names(count), slow_with(), stored)
        assert {Verdict.PASS} == {one.verdict for one in found.values()}
        assert pairs == len(outcomes)


def test_two_nodes_alone_cannot_be_told_apart() -> None:
    """Slow, and nobody is blamed; without a baseline not even that is known."""
    found, _ = run_rounds(names(2), slow_with("n2"), STORED)
    assert {(Verdict.SLOW, False)} == {(one.verdict, one.blames) for one in found.values()}
    assert "no proven partner" in found["n1"].reason

    found, _ = run_rounds(names(2), slow_with("n2"), None)
    assert {Verdict.UNJUDGED} == {one.verdict for one in found.values()}


def test_a_slow_path_blames_no_node() -> None:
    """Two nodes that are slow only together are both fast with others."""
    found, _ = run_rounds(names(6), lambda *pair: SLOW if set(pair) == {"n1", "n4"} else FAST, None)

    assert not any(one.blames for one in found.values())
    assert "look at the path between them" in found["n1"].reason


def test_a_pair_that_fails_counts_as_bad() -> None:
    """A node whose all-reduce never ends is blamed for failing, one with wrong sums for corruption."""
    found, _ = run_rounds(names(4), lambda *pair: None if "n3" in pair else FAST, None)
    assert [("n3", Verdict.FAILED)] == [(one.node, one.verdict) for one in found.values() if one.blames]

    outcomes = [
        Outcome(1, "n1", "n3", FAST, corrupt=True, detail="sum differs"), Outcome(1, "n2", "n4", FAST),
        Outcome(2, "n1", "n2", FAST), Outcome(2, "n3", "n4", FAST, corrupt=True, detail="sum differs"),
    ]  # fmt: skip
    (blamed,) = [one for one in conclude(names(4), outcomes, STORED, Band()) if one.blames]
    assert ("n3", Verdict.CORRUPT) == (blamed.node, blamed.verdict)
    assert "sum differs" in blamed.reason


def test_a_node_alone_is_skipped() -> None:
    """There is nobody to pair it with."""
    found, outcomes = run_rounds(["n1"], slow_with(), STORED)

    assert [] == outcomes
    assert Verdict.SKIPPED is found["n1"].verdict


@given(st.integers(3, 40), st.data())
def test_a_minority_of_bad_nodes_never_blames_a_good_one(count: int, data: st.DataObject) -> None:
    """Any few bad nodes among any number: with a stored baseline all are blamed, and nobody else."""
    nodes = names(count)
    bad = data.draw(st.sets(st.sampled_from(nodes), max_size=max(1, count // 4)))
    found, outcomes = run_rounds(nodes, slow_with(*bad), STORED)

    assert bad == {one.node for one in found.values() if one.blames}
    assert max(one.round for one in outcomes) <= 4
