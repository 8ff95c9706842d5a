"""Which node runs which ranks in one incarnation (pure, standard library only)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.ids import Incarnation, NodeName, Rank


@dataclass(frozen=True, slots=True)
class RankPlan:
    """The places of all ranks, decided by the coordinator and read by every agent.

    Attributes:
        incarnation: the start this plan is for.
        nodes: training nodes; the position of a node is its group rank.
        spares: allocated nodes that run no ranks now.
        ranks_per_node: training processes per node.
    """

    incarnation: Incarnation
    nodes: tuple[NodeName, ...]
    spares: tuple[NodeName, ...]
    ranks_per_node: int

    @property
    def world_size(self) -> int:
        """Number of training processes."""
        return len(self.nodes) * self.ranks_per_node

    def ranks_of(self, node: NodeName) -> tuple[Rank, ...]:
        """Global ranks of a node in order of their local rank; none for a spare or a stranger."""
        if node not in self.nodes:
            return ()
        first = self.nodes.index(node) * self.ranks_per_node
        return tuple(Rank(first + local) for local in range(self.ranks_per_node))

    def to_json(self) -> dict[str, Any]:
        """Plain data for the control directory."""
        return {
            "incarnation": self.incarnation, "nodes": list(self.nodes), "spares": list(self.spares),
            "ranks_per_node": self.ranks_per_node,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RankPlan:
        """Read it back."""
        return cls(
            Incarnation(int(data["incarnation"])), tuple(NodeName(name) for name in data["nodes"]),
            tuple(NodeName(name) for name in data["spares"]), int(data["ranks_per_node"]),
        )


def plan_ranks(
    available: Sequence[NodeName], wanted: int, ranks_per_node: int, incarnation: Incarnation,
    previous: RankPlan | None = None,
) -> RankPlan:
    """Place ranks on nodes: a node that is still there keeps its ranks, a missing one is replaced by a spare.

    Args:
        available: usable nodes of the allocation, in Slurm's order.
        wanted: training nodes of the plan.
        previous: the plan before this one, if any of its nodes may be kept.

    Raises:
        ValueError: fewer nodes than wanted.
    """
    if len(available) < wanted:
        raise ValueError(f"{wanted} nodes are needed and {len(available)} are there")
    kept = [node if node in available else None for node in previous.nodes[:wanted]] if previous else []
    slots = kept + [None] * (wanted - len(kept))
    free = [node for node in available if node not in slots]
    nodes = tuple(node if node is not None else free.pop(0) for node in slots)
    return RankPlan(incarnation, nodes, tuple(node for node in available if node not in nodes), ranks_per_node)
