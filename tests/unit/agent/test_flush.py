"""Which checkpoint is saved from memory when ranks have died, and which node writes which part."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.agent.flush import Flush, Holdings, Name, agree

NODES = {"n1": (0, 1), "n2": (2, 3)}


def holds(node: str, durable: Name | None = None, /, **steps: str) -> Holdings:
    """``holds("n1", s3="01")``: node n1 has the parts of ranks 0 and 1 of step 3, of a world of 4."""
    parts = {(0, int(step[1:])): {int(rank): 4 for rank in ranks} for step, ranks in steps.items()}
    return Holdings(node, parts, durable)


def test_the_newest_whole_step_is_written_by_its_own_nodes() -> None:
    """Of two steps that are whole the newer is chosen, and each node writes what its ranks saved."""
    flush = agree([holds("n2", s3="23", s4="23"), holds("n1", s3="01", s4="01")], NODES)

    assert ((0, 4), {0: "n1", 1: "n1", 2: "n2", 3: "n2"}) == (flush.name, flush.writers)
    assert (2, 3) == flush.ranks_of("n2")


def test_a_step_that_one_rank_had_not_saved_yet_is_passed_over() -> None:
    """Rank 3 died before its part of step 4 was complete: step 3 is the newest that exists."""
    assert (0, 3) == agree([holds("n1", s3="01", s4="01"), holds("n2", s3="23", s4="2")], NODES).name


def test_parts_of_a_lost_node_come_from_its_peer() -> None:
    """n2 is gone; n1 holds copies of its ranks' parts and writes all four."""
    flush = agree([holds("n1", s3="01", s4="0123", s5="01")], NODES)

    assert ((0, 4), dict.fromkeys(range(4), "n1")) == (flush.name, flush.writers)


def test_a_copy_is_not_written_where_the_original_is() -> None:
    """Both nodes hold all parts: the work is divided, not done by the first node alone."""
    flush = agree([holds("n1", s3="0123"), holds("n2", s3="0123")], NODES)

    assert {0: "n1", 1: "n1", 2: "n2", 3: "n2"} == flush.writers


@pytest.mark.parametrize(("holdings", "reason"), [
    ([holds("n1", (0, 4), s3="01", s4="01"), holds("n2", s4="23")], "step 4 is durable, and memory holds nothing newer"),
    ([holds("n1", (1, 2), s9="0123")], "step 2 is durable, and memory holds nothing newer"),
    ([holds("n1", s4="01"), holds("n2")], "no node that lives holds the missing parts of step 4 or any other step"),
    ([holds("n1"), holds("n2")], "memory holds no checkpoint"),
    ([], "memory holds no checkpoint"),
])
def test_nothing_is_written_without_need(holdings: list[Holdings], reason: str) -> None:
    """What is durable, incomplete or of an earlier incarnation is not written; the reason is told."""
    assert (None, {}, reason) == (agree(holdings, NODES).name, agree(holdings, NODES).writers, agree(holdings, NODES).reason)


def test_parts_of_different_worlds_make_no_whole() -> None:
    """Parts of a step that was saved by 2 ranks and by 4 under the same name are never mixed."""
    two, four = Holdings("n1", {(0, 1): {0: 2, 1: 2}}), Holdings("n2", {(0, 1): {2: 4, 3: 4}})

    assert agree([two, four], NODES).name is None


def test_what_all_ranks_have_ordered_needs_no_new_order() -> None:
    """If every rank had ordered the step there is only to wait; if one had not, it is ordered anew, by all."""
    def ordered(node: str, *ranks: int) -> Holdings:
        return Holdings(node, {(0, 4): dict.fromkeys(NODES[node], 4)}, None, {(0, 4): ranks})

    assert agree([ordered("n1", 0, 1), ordered("n2", 2, 3)], NODES).is_ordered
    assert not agree([ordered("n1", 0, 1), ordered("n2", 2)], NODES).is_ordered


def test_what_is_published_reads_back() -> None:
    """Holdings and decision survive the way through the control directory."""
    held = Holdings("n1", {(0, 3): {0: 4, 1: 4}, (0, 4): dict.fromkeys(range(4), 4)}, (0, 1), {(0, 4): (0, 1)})
    flush = agree([held], NODES)

    assert held == Holdings.from_json(json.loads(json.dumps(held.to_json())))
    assert flush == Flush.from_json(json.loads(json.dumps(flush.to_json())))


PARTS = st.dictionaries(st.tuples(st.integers(0, 1), st.integers(1, 4)),
                        st.dictionaries(st.integers(0, 3), st.just(4), max_size=4), max_size=4)


@given(st.lists(PARTS, max_size=4), st.none() | st.tuples(st.integers(0, 1), st.integers(1, 4)), st.randoms())
def test_every_part_is_where_it_is_ordered_and_nothing_newer_is_lost(
    parts: list[Mapping[Name, Mapping[int, int]]], durable: Name | None, chance: st.DataObject,
) -> None:
    """Whatever nodes hold: the choice is whole, newer than what is durable, the newest such, and the same in any order."""
    nodes = {f"n{index}": (index,) for index in range(4)}
    held = [Holdings(f"n{index}", of_node, durable) for index, of_node in enumerate(parts)]
    flush = agree(held, nodes)
    newer = {name for one in parts for name in one if durable is None or name > durable}
    whole = [name for name in newer if set(range(4)) == {rank for one in parts for rank in one.get(name, {})}]

    assert flush.name == max(whole, default=None) if held else flush.name is None
    assert all(rank in held[int(node[1:])].parts[flush.name or (0, 0)] for rank, node in flush.writers.items())
    chance.shuffle(held)  # type: ignore[attr-defined]
    assert flush == agree(held, nodes)
