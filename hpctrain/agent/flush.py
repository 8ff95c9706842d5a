"""What is written to the shared tier when the ranks have died, and by whom (pure, standard library only).

Every agent says what the memory of its node holds: parts of its own ranks, and copies of a peer's. All of them decide with
:func:`agree`; the first decision that is published counts for all (see :mod:`hpctrain.agent.control`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Name = tuple[int, int]
"""A checkpoint: incarnation, step; the larger one is the newer one."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What one node's memory holds.

    Attributes:
        node: the one that says so.
        parts: for each checkpoint, the ranks whose complete parts are there, each with the size of the world that saved it.
        durable: newest checkpoint that is committed in the shared tier, as far as this node can see.
        ordered: for each checkpoint, the ranks of this node that had their parts written to the shared tier before they
            died, or whose order for that the writer still has.
    """

    node: str
    parts: Mapping[Name, Mapping[int, int]] = field(default_factory=dict)
    durable: Name | None = None
    ordered: Mapping[Name, Sequence[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the control directory."""
        parts = [[*name, sorted(map(list, ranks.items()))] for name, ranks in sorted(self.parts.items())]
        ordered = [[*name, list(ranks)] for name, ranks in sorted(self.ordered.items())]
        return {"node": self.node, "parts": parts, "durable": self.durable and list(self.durable), "ordered": ordered}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Holdings:
        """Read it back."""
        parts = {(int(inc), int(step)): {int(rank): int(size) for rank, size in ranks} for inc, step, ranks in data["parts"]}
        ordered = {(int(inc), int(step)): tuple(map(int, ranks)) for inc, step, ranks in data.get("ordered", ())}
        return cls(str(data["node"]), parts, _name(data.get("durable")), ordered)


@dataclass(frozen=True, slots=True)
class Flush:
    """What is to be written, and by whom.

    Attributes:
        name: the checkpoint; None when there is nothing to do.
        writers: for each rank the node that writes its part; the one of rank 0 commits.
        durable: newest checkpoint that is in the shared tier anyway.
        reason: one sentence for people.
        is_ordered: the ranks themselves had all of it ordered before they died; there is only to wait.
    """

    name: Name | None
    writers: Mapping[int, str] = field(default_factory=dict)
    durable: Name | None = None
    reason: str = ""
    is_ordered: bool = False

    @property
    def world_size(self) -> int:
        """Number of ranks that saved."""
        return len(self.writers)

    def ranks_of(self, node: str) -> tuple[int, ...]:
        """Whose parts a node writes."""
        return tuple(sorted(rank for rank, writer in self.writers.items() if writer == node))

    @property
    def nodes(self) -> frozenset[str]:
        """Nodes that write something."""
        return frozenset(self.writers.values())

    def to_json(self) -> dict[str, Any]:
        """Plain data for the control directory."""
        writers = {str(rank): node for rank, node in sorted(self.writers.items())}
        return {"name": self.name and list(self.name), "writers": writers, "durable": self.durable and list(self.durable),
                "reason": self.reason, "is_ordered": self.is_ordered}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Flush:
        """Read it back."""
        writers = {int(rank): str(node) for rank, node in data["writers"].items()}
        return cls(_name(data["name"]), writers, _name(data.get("durable")), str(data.get("reason", "")),
                   bool(data.get("is_ordered")))


def agree(holdings: Iterable[Holdings], ranks_of: Mapping[str, Sequence[int]]) -> Flush:
    """The newest checkpoint that the living nodes hold in full, unless one as new is durable.

    Args:
        holdings: of the nodes that live; their order does not matter.
        ranks_of: the ranks that ran on each node of the job, in the job's order of nodes. A part is written by the node
            where its rank ran, if that node has it, because each node then writes about as much as any other; else by the
            first that has it.
    """
    order = {node: index for index, node in enumerate(ranks_of)}
    living = sorted(holdings, key=lambda one: (order.get(one.node, len(order)), one.node))
    durable = max((one.durable for one in living if one.durable is not None), default=None)
    names = sorted({name for one in living for name in one.parts}, reverse=True)
    for name in names:
        if durable is not None and name <= durable:
            break
        writers = _writers(name, living, ranks_of)
        if writers:
            ordered = {rank for one in living for rank in one.ordered.get(name, ())} >= set(writers)
            what = f"step {name[1]} is {'still being written' if ordered else 'in memory only'}"
            return Flush(name, writers, durable, what + (f"; step {durable[1]} is durable" if durable else ""), ordered)
    if durable is not None and (not names or names[0] <= durable):
        return Flush(None, {}, durable, f"step {durable[1]} is durable, and memory holds nothing newer")
    if names:
        missing = f"no node that lives holds the missing parts of step {names[0][1]} or any other step"
        return Flush(None, {}, durable, missing)
    return Flush(None, {}, durable, "memory holds no checkpoint")


def _writers(name: Name, living: Sequence[Holdings], ranks_of: Mapping[str, Sequence[int]]) -> dict[int, str]:
    """Who writes which part; nothing unless every part is there, all of one world."""
    sizes = {size for one in living for size in one.parts.get(name, {}).values()}
    if len(sizes) != 1:
        return {}
    writers: dict[int, str] = {}
    for rank in range(sizes.pop()):
        having = [one.node for one in living if rank in one.parts.get(name, {})]
        own = [node for node in having if rank in ranks_of.get(node, ())]
        if not having:
            return {}
        writers[rank] = (own or having)[0]
    return writers


def _name(pair: Any) -> Name | None:
    if pair is None:
        return None
    incarnation, step = pair
    return int(incarnation), int(step)
