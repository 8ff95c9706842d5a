"""What an agent does for the checkpoint tiers of its node, from its start to its end (service).

Wires together the processes (:mod:`tier_processes`), the peers (:mod:`peering`) and the saving of what memory holds when
the ranks have died (:mod:`flusher`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from hpctrain.agent.control import Control, try_write
from hpctrain.agent.flush import Name
from hpctrain.agent.flusher import Deadline, Flusher
from hpctrain.agent.keeper_link import KeeperLink
from hpctrain.agent.peering import Peering, failure_domain
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_result import NodeOutcome, NodeResult
from hpctrain.agent.tier_processes import TierProcesses, helpers
from hpctrain.checkpoint.keeper_client import shared_secret
from hpctrain.checkpoint.pairing import pair
from hpctrain.clock import Clock
from hpctrain.errors import StorageError
from hpctrain.ids import NodeName
from hpctrain.jobs.writer import EventWriter
from hpctrain.submit.plan_model import Plan

PAUSE_S = 0.1


def open_tiers(
    plan: Plan, control: Control, ranks: RankPlan, *, node: NodeName, events: EventWriter, clock: Clock,
    env: Mapping[str, str],
) -> NodeTiers | None:
    """The tiers of a node; None where the recipe wants no ram tier, or there is no secret to be had, which is told."""
    if not plan.checkpoint.ram:
        return None
    try:
        return NodeTiers(plan, control, ranks, node=node, events=events, clock=clock, env=env)
    except StorageError as error:
        reason = f"no checkpoints in memory on {node}: {error}"
        events.note("checkpoint.degraded", reason, node=node, evidence={"tier": "ram"})
        return None


class NodeTiers:
    """Keeper, writer and peer of one node in one incarnation.

    Args:
        env: the agent's own environment.

    Raises:
        StorageError: there is no secret to be had.
    """

    def __init__(
        self, plan: Plan, control: Control, ranks: RankPlan, *, node: NodeName, events: EventWriter, clock: Clock,
        env: Mapping[str, str],
    ) -> None:
        self._plan, self._control, self._ranks, self._node = plan, control, ranks, node
        self._events, self._clock, self._env = events, clock, env
        self._secret = shared_secret(control.secret)
        self._keeper = KeeperLink(self._secret, node, ranks.incarnation)
        self._processes: TierProcesses | None = None

    def start(self, watch: Callable[[int], None], forget: Callable[[int], None]) -> None:
        """Have the processes started; returns at once.

        Args:
            watch, forget: tell the warden of a process group, and that it is gone.
        """
        children = helpers(self._secret, self._node, Path(self._plan.run_dir), self._env, os.getpid())
        tasks = [self._peering().look] if self._plan.checkpoint.peer and len(self._ranks.nodes) > 1 else []
        self._processes = TierProcesses(
            children, node=self._node, events=self._events, clock=self._clock, watch=watch, forget=forget, tasks=tasks,
        )
        self._processes.start()

    def finish(self, result: NodeResult, aborted: str, pause: Callable[[Deadline], None]) -> None:
        """The ranks have ended. See that nothing which only memory holds is lost with the nodes, if time allows.

        Args:
            aborted: why the ranks were killed, "" if they were not.
            pause: waits a moment, and may move the deadline.
        """
        limit_s = float(self._plan.checkpoint.flush_limit_s)
        deadline = Deadline(self._clock.monotonic() + limit_s)
        pause(deadline)
        if result.outcome not in (NodeOutcome.FAILED, NodeOutcome.ABORTED):
            self._drain(deadline, pause)
            return
        failed = next((rank.describe() for rank in result.ranks if not rank.by_agent and rank.returncode), "")
        reason = failed or aborted or "the ranks have died"
        try_write(self._control.request_flush, reason, self._clock.time(), limit_s)
        Flusher(
            self._control, self._ranks, self._keeper, node=self._node, values=self._plan.checkpoint.values,
            durable=self._durable, events=self._events, clock=self._clock, pause=lambda: pause(deadline),
            restart_writer=self._restart_writer,
        ).run(reason, deadline)

    def _drain(self, deadline: Deadline, pause: Callable[[Deadline], None]) -> None:
        """The ranks have ended well: let the writer finish what they ordered."""
        while self._keeper.is_busy(self._ranks.ranks_of(self._node)) and self._clock.monotonic() < deadline.at_s:
            pause(deadline)

    def _restart_writer(self) -> None:
        if self._processes is not None:
            self._processes.restart("writer")

    def stop(self) -> None:
        """End the processes."""
        if self._processes is not None:
            self._processes.stop()

    def _peering(self) -> Peering:
        address = self._env.get("SLURM_TOPOLOGY_ADDR", "")
        return Peering(
            self._control, self._keeper, pair, node=self._node, nodes=self._ranks.nodes,
            domain=failure_domain(address, self._env.get("SLURM_TOPOLOGY_ADDR_PATTERN", "")),
            events=self._events, clock=self._clock,
        )

    def _durable(self) -> Name | None:
        from hpctrain.checkpoint.tier_shared import SharedTier  # not before it is needed: each start would wait for it

        try:
            names = SharedTier(Path(self._plan.checkpoint.values["root"])).checkpoints(committed=True)
        except (OSError, StorageError):
            return None
        return (names[-1].incarnation, names[-1].step) if names else None
