"""What an agent asks of its node's keeper, one connection per question (adapter over the keeper's socket).

A keeper that is gone or silent answers nothing here; it never raises, because the agent has ranks to look after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from hpctrain.agent.flush import Name
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError

ANSWER_S = 3.0
TIERS = ("local", "shared", "object")
"""What the writer makes durable."""


class KeeperLink:
    """Asks the keeper.

    Args:
        incarnation: of the ranks; a keeper that has seen a newer one obeys us no more.
    """

    def __init__(self, secret: bytes, node: str, incarnation: int) -> None:
        self._secret, self._node, self._incarnation = secret, node, incarnation
        self._copies: set[tuple[Name, int]] = set()

    def about(self) -> Mapping[str, Any]:
        """What the keeper says about itself; nothing while there is none."""
        return self._ask("about")

    def set_peer(self, node: str, addr: str, port: int) -> bool:
        """Have copies sent to another node; returns whether the keeper knows it now."""
        return "error" not in self._ask("set_peer", node=node, addr=addr, port=port)

    def holdings(self) -> dict[Name, dict[int, int]]:
        """The parts that this node's memory holds, its own and its peer's: ranks by checkpoint, with the world's size."""
        answer = self._ask("holdings")
        copies, own = _parts(answer.get("peer", {})), _parts(answer.get("own", {}))
        self._copies = {(name, rank) for name, ranks in copies.items() for rank in ranks if rank not in own.get(name, {})}
        return {name: {**copies.get(name, {}), **own.get(name, {})} for name in {*copies, *own}}

    def ordered(self, tier: str, ranks: Sequence[int]) -> dict[Name, list[int]]:
        """Which of these ranks have had which checkpoints written to a tier, or have an order for that under way."""
        found: dict[Name, list[int]] = {}
        for rank in ranks:
            answer = self._ask("persisted", tier=tier, rank=rank)
            result = answer.get("result") or {}
            names = [answer.get("waiting"), answer.get("working"), None if result.get("error") else result.get("name")]
            for incarnation, step in {tuple(name) for name in names if name}:
                found.setdefault((int(incarnation), int(step)), []).append(rank)
        return found

    def order(self, tier: str, rank: int, name: Name, task: Mapping[str, Any]) -> str:
        """Have the writer make a part durable; returns why it will not, "" when it will.

        Call :meth:`holdings` before: it tells own parts from copies.
        """
        store = "peer" if (name, rank) in self._copies else "own"
        answer = self._ask(
            "persist", tier=tier, rank=rank, name=list(name), task=dict(task), incarnation=self._incarnation, store=store)
        return str(answer.get("error", ""))

    def result(self, tier: str, rank: int, name: Name) -> str | None:
        """What has become of an order: None while it is under way, "" when it is done, else what went wrong."""
        answer = self._ask("persisted", tier=tier, rank=rank)
        pair = list(name)
        if pair in (answer.get("waiting"), answer.get("working")):
            return None
        result = answer.get("result") or {}
        if list(result.get("name", ())) == pair:
            return str(result.get("error", ""))
        return str(answer.get("error", "the keeper that knew of the order is gone"))

    def is_working(self, tier: str, ranks: Sequence[int]) -> bool:
        """The writer has begun orders of these ranks and not ended them."""
        return any(self._ask("persisted", tier=tier, rank=rank).get("working") for rank in ranks)

    def is_busy(self, ranks: Sequence[int]) -> bool:
        """The writer still has orders of these ranks."""
        answers = [self._ask("persisted", tier=tier, rank=rank) for tier in TIERS for rank in ranks]
        return any(answer.get("waiting") or answer.get("working") for answer in answers)

    def _ask(self, request: str, **fields: Any) -> Mapping[str, Any]:
        try:
            with contextlib.closing(KeeperClient(self._secret, self._node, timeout_s=ANSWER_S)) as client:
                return client.request(request, **fields)
        except (WireError, RefusedError) as error:
            return {"error": str(error)}


def _parts(rows: Mapping[str, Any]) -> dict[Name, dict[int, int]]:
    found: dict[Name, dict[int, int]] = {}
    for rank, names in rows.items():
        for incarnation, step, world_size in names:
            found.setdefault((int(incarnation), int(step)), {})[int(rank)] = int(world_size)
    return found
