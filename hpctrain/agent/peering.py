"""Tells this node's keeper which other node gets copies of its ranks' checkpoints (service).

Each agent publishes where its writer listens; when all nodes have, every agent computes the same pairs. A writer that
was started again listens somewhere else: then that is published, and found, anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from hpctrain.agent.control import Control, PeerEndpoint, try_write
from hpctrain.clock import Clock
from hpctrain.jobs.writer import EventWriter

LOOK_FIRST_S, LOOK_S = 0.3, 3.0
"""Between looks at the control directory: until all nodes are known, and after that."""

Pair = Callable[[Sequence[str], Mapping[str, str]], Mapping[str, str]]
"""Which node sends to which, from the job's nodes in order and their failure domains."""


class Keeper(Protocol):
    """What is asked of the keeper; see :class:`hpctrain.agent.keeper_link.KeeperLink`."""

    def about(self) -> Mapping[str, Any]:
        """Its process id and where its writer listens."""

    def set_peer(self, node: str, addr: str, port: int) -> bool:
        """Have copies sent there; returns whether it knows now."""


class Peering:
    """Call :meth:`look` again and again; it only does something when it is time to.

    Args:
        nodes: of the job, in its order.
        domain: what this node may lose together with its neighbours; "" if that is not known.
    """

    def __init__(
        self, control: Control, keeper: Keeper, pair: Pair, *, node: str, nodes: Sequence[str], domain: str,
        events: EventWriter, clock: Clock,
    ) -> None:
        self._control, self._keeper, self._pair = control, keeper, pair
        self._node, self._nodes, self._domain = node, tuple(nodes), domain
        self._events, self._clock = events, clock
        self._next_s = float("-inf")
        self._published: PeerEndpoint | None = None
        self._set: tuple[PeerEndpoint, int] | None = None

    def look(self) -> None:
        """Publish where our writer listens, and tell the keeper where its peer's does."""
        now = self._clock.monotonic()
        if now < self._next_s:
            return
        about = self._keeper.about()
        self._publish(about)
        self._next_s = now + (LOOK_S if self._tell(about) else LOOK_FIRST_S)

    def _publish(self, about: Mapping[str, Any]) -> None:
        listening = about.get("listening") or {}
        if not listening.get("port"):
            return
        endpoint = PeerEndpoint(self._node, str(listening["addr"]), int(listening["port"]), self._domain)
        if endpoint != self._published and not try_write(self._control.publish_peer, endpoint):
            self._published = endpoint

    def _tell(self, about: Mapping[str, Any]) -> bool:
        """Whether the keeper knows its peer, as far as all nodes have spoken."""
        endpoints = self._control.peers()
        if not set(self._nodes) <= set(endpoints):
            return False
        # A node without a known domain is one of its own.
        domains = {node: endpoints[node].domain or node for node in self._nodes}
        target = endpoints.get(self._pair(self._nodes, domains).get(self._node, ""))
        keeper = int(about.get("pid", 0))
        if target is None or (target, keeper) == self._set:
            return True
        if not self._keeper.set_peer(target.node, target.addr, target.port):
            return False
        if self._set is None or self._set[0].node != target.node:
            same = " (of the same failure domain: there is no other)" if domains[target.node] == domains[self._node] else ""
            self._events.note(
                "checkpoint.peer", f"{self._node} sends copies of its checkpoints to {target.node}{same}", node=self._node,
                evidence={"tier": "peer", "peer": target.node, "addr": f"{target.addr}:{target.port}"},
            )
        self._set = (target, keeper)
        return True


def failure_domain(address: str, pattern: str) -> str:
    """The switches above a node, from Slurm's SLURM_TOPOLOGY_ADDR and _PATTERN; "" where Slurm knows no topology."""
    levels = pattern.split(".")[:-1]
    if not levels or set(levels) - {"switch", "block"}:
        return ""
    return ".".join(address.split(".")[: len(levels)])
