"""Ranks are placed on nodes, and stay where they were if they can."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.agent.rank_plan import RankPlan, plan_ranks
from hpctrain.ids import Incarnation, NodeName


def names(*which: str) -> list[NodeName]:
    return [NodeName(name) for name in which]


def test_first_nodes_train_and_the_rest_are_spares() -> None:
    """In the order Slurm gave the nodes, ranks are dense and the surplus waits."""
    plan = plan_ranks(names("a", "b", "c"), 2, 2, Incarnation(0))
    assert plan.nodes == ("a", "b")
    assert plan.spares == ("c",)
    assert plan.ranks_of(NodeName("b")) == (2, 3)
    assert plan.ranks_of(NodeName("c")) == ()
    assert plan.world_size == 4


def test_lost_node_is_replaced_by_a_spare_and_nobody_else_moves() -> None:
    """The spare takes exactly the ranks of the node that is gone."""
    before = plan_ranks(names("a", "b", "c", "d"), 3, 2, Incarnation(0))
    after = plan_ranks(names("a", "c", "d"), 3, 2, Incarnation(1), before)
    assert after.nodes == ("a", "d", "c")
    assert after.spares == ()


def test_too_few_nodes_are_refused() -> None:
    """With fewer nodes than the plan wants there is no plan."""
    with pytest.raises(ValueError, match="2 nodes are needed and 1 are there"):
        plan_ranks(names("a"), 2, 1, Incarnation(0))


@given(st.integers(1, 6), st.integers(0, 3), st.integers(1, 4), st.data())
def test_every_rank_has_exactly_one_place(nodes: int, spares: int, per_node: int, data: st.DataObject) -> None:
    """Whatever nodes die, as long as enough are left: ranks 0..N-1 once each, survivors unmoved, and JSON keeps it."""
    all_nodes = names(*(f"n{number}" for number in range(nodes + spares)))
    before = plan_ranks(all_nodes, nodes, per_node, Incarnation(0))
    dead = data.draw(st.sets(st.sampled_from(all_nodes), max_size=spares))
    left = [node for node in all_nodes if node not in dead]
    after = plan_ranks(left, nodes, per_node, Incarnation(1), before)
    assert sorted(rank for node in after.nodes for rank in after.ranks_of(node)) == list(range(nodes * per_node))
    assert all(after.nodes[at] == node for at, node in enumerate(before.nodes) if node not in dead)
    assert set(after.nodes) | set(after.spares) == set(left)
    assert RankPlan.from_json(after.to_json()) == after
