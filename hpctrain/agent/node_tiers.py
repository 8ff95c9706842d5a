"""What an agent does for the checkpoint tiers of its node, from its own start to its end (service).

Wires together the processes (:mod:`tier_processes`), the peers (:mod:`peering`) and the saving of what memory holds when
the ranks have died for good (:mod:`flusher`). The memory outlives the ranks: each incarnation finds what the one before it
saved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpctrain.agent.control import Control
from hpctrain.agent.flush import Name
from hpctrain.agent.flusher import Deadline, Flusher
from hpctrain.agent.keeper_link import KeeperLink
from hpctrain.agent.peering import Peering, failure_domain
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.tier_processes import TierProcesses, helpers
from hpctrain.checkpoint.keeper_client import shared_secret
from hpctrain.checkpoint.pairing import pair
from hpctrain.clock import Clock
from hpctrain.errors import StorageError
from hpctrain.ids import Incarnation, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.submit.plan_model import Plan

PAUSE_S = 0.1


def open_tiers(
    plan: Plan, run_dir: RunDir, *, node: NodeName, events: EventWriter, clock: Clock, env: Mapping[str, str],
) -> NodeTiers | None:
    """The tiers of a node; None where the recipe wants no ram tier, or there is no secret to be had, which is told."""
    if not plan.checkpoint.ram:
        return None
    try:
        return NodeTiers(plan, run_dir, node=node, events=events, clock=clock, env=env)
    except StorageError as error:
        reason = f"no checkpoints in memory on {node}: {error}"
        events.note("checkpoint.degraded", reason, node=node, evidence={"tier": "ram"})
        return None


class NodeTiers:
    """Keeper, writer and peer of one node.

    Args:
        env: the agent's own environment.

    Raises:
        StorageError: there is no secret to be had.
    """

    def __init__(
        self, plan: Plan, run_dir: RunDir, *, node: NodeName, events: EventWriter, clock: Clock, env: Mapping[str, str],
    ) -> None:
        self._plan, self._run_dir, self._node = plan, run_dir, node
        self._events, self._clock, self._env = events, clock, env
        self._secret = shared_secret(Control(run_dir, Incarnation(0)).secret)
        self._ranks: RankPlan | None = None
        self._peering: Peering | None = None
        self._processes: TierProcesses | None = None

    def start(self, watch: Callable[[int], None], forget: Callable[[int], None]) -> None:
        """Have the processes started; returns at once.

        Args:
            watch, forget: tell the warden of a process group, and that it is gone.
        """
        children = helpers(self._secret, self._node, Path(self._plan.run_dir), self._env, os.getpid())
        self._processes = TierProcesses(
            children, node=self._node, events=self._events, clock=self._clock, watch=watch, forget=forget,
            tasks=[self._look_for_peer],
        )
        self._processes.start()

    def begin(self, ranks: RankPlan) -> None:
        """An incarnation is about to be started: from now on copies go to its pairs."""
        self._ranks = ranks
        self._peering = None
        if self._plan.checkpoint.peer and len(ranks.nodes) > 1 and self._node in ranks.nodes:
            address = self._env.get("SLURM_TOPOLOGY_ADDR", "")
            self._peering = Peering(
                Control(self._run_dir, ranks.incarnation), self._link(ranks), pair, node=self._node, nodes=ranks.nodes,
                domain=failure_domain(address, self._env.get("SLURM_TOPOLOGY_ADDR_PATTERN", "")),
                events=self._events, clock=self._clock,
            )

    def flush(self, reason: str, living: Sequence[str], pause: Callable[[Deadline], None]) -> None:
        """The ranks are gone for good. See that nothing which only memory holds is lost with the nodes, if time allows.

        Args:
            living: nodes that do the same.
            pause: waits a moment, and may move the deadline.
        """
        if self._ranks is None:
            return
        deadline = Deadline(self._clock.monotonic() + float(self._plan.checkpoint.flush_limit_s))
        Flusher(
            Control(self._run_dir, self._ranks.incarnation), self._ranks, self._link(self._ranks), node=self._node,
            living=living, values=self._plan.checkpoint.values, durable=self._durable, events=self._events,
            clock=self._clock, pause=lambda: pause(deadline), restart_writer=self._restart_writer,
        ).run(reason, deadline)

    def drain(self, pause: Callable[[Deadline], None]) -> None:
        """The ranks have ended well: let the writer finish what they ordered."""
        if self._ranks is None:
            return
        deadline = Deadline(self._clock.monotonic() + float(self._plan.checkpoint.flush_limit_s))
        link = self._link(self._ranks)
        while link.is_busy(self._ranks.ranks_of(self._node)) and self._clock.monotonic() < deadline.at_s:
            pause(deadline)

    def stop(self) -> None:
        """End the processes."""
        if self._processes is not None:
            self._processes.stop()

    def _look_for_peer(self) -> None:
        peering = self._peering  # replaced by another thread
        if peering is not None:
            peering.look()

    def _link(self, ranks: RankPlan) -> KeeperLink:
        return KeeperLink(self._secret, self._node, ranks.incarnation)

    def _restart_writer(self) -> None:
        if self._processes is not None:
            self._processes.restart("writer")

    def _durable(self) -> Name | None:
        from hpctrain.checkpoint.tier_shared import SharedTier  # not before it is needed: each start would wait for it

        try:
            names = SharedTier(Path(self._plan.checkpoint.values["root"])).checkpoints(committed=True)
        except (OSError, StorageError):
            return None
        return (names[-1].incarnation, names[-1].step) if names else None
