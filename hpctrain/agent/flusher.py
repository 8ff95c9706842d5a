"""One node's part in saving what memory holds after the ranks have died (service).

Every agent of the job that lives does the same, whether the coordinator asks for it or there is none any more: it says what
its keeper holds, decides with the others what is to be written and by whom, orders its own share of that, and waits until
all are done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hpctrain.agent.control import Control, try_write
from hpctrain.agent.flush import Flush, Holdings, Name, agree
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.clock import Clock
from hpctrain.ids import NodeName
from hpctrain.jobs.writer import EventWriter

TIER = "shared"
SILENT_S = 8.0
"""A node that has not said by now what it holds counts as dead."""
ATTEMPT = 1_000_000
"""Number of the attempt in orders of agents: none of the ranks' own comes near it."""


class Keeper(Protocol):
    """What is asked of the keeper; see :class:`hpctrain.agent.keeper_link.KeeperLink`."""

    def holdings(self) -> Mapping[Name, Mapping[int, int]]:
        """Ranks whose parts are there, by checkpoint, each with the size of its world."""

    def ordered(self, tier: str, ranks: Sequence[int]) -> Mapping[Name, Sequence[int]]:
        """Ranks that have had checkpoints written, or have an order for that."""

    def is_working(self, tier: str, ranks: Sequence[int]) -> bool:
        """The writer has begun orders of these ranks and not ended them."""

    def order(self, tier: str, rank: int, name: Name, task: Mapping[str, Any]) -> str:
        """Have a part written; returns why it will not be, "" when it will."""

    def result(self, tier: str, rank: int, name: Name) -> str | None:
        """None while an order is under way, "" when it is done, else what went wrong."""


@dataclass(slots=True)
class Deadline:
    """When to give up, on the monotonic clock; it may come nearer while somebody waits."""

    at_s: float


class Flusher:
    """Does it once.

    Args:
        durable: the newest checkpoint that is committed in the shared tier; None when there is none.
        pause: waits a moment, and may move the deadline.
        restart_writer: ends the writer, for another to take its place.
        living: nodes of the job that take part; a spare among them may hold copies of what a node before it held.
        values: the run's tiers, as in HPCTRAIN_CHECKPOINT.
    """

    def __init__(
        self, control: Control, ranks: RankPlan, keeper: Keeper, *, node: NodeName, living: Sequence[str],
        values: Mapping[str, Any],
        durable: Callable[[], Name | None], events: EventWriter, clock: Clock, pause: Callable[[], None],
        restart_writer: Callable[[], None],
    ) -> None:
        self._control, self._ranks, self._keeper, self._node = control, ranks, keeper, node
        self._values, self._durable, self._living = values, durable, frozenset(living)
        self._events, self._clock, self._pause = events, clock, pause
        self._restart_writer = restart_writer
        self._started_s = 0.0

    def run(self, reason: str, deadline: Deadline) -> Flush | None:
        """Save what memory holds; returns what was decided, None when time ran out before.

        Args:
            reason: why the ranks have died.
        """
        self._started_s = self._clock.monotonic()
        ordered = self._keeper.ordered(TIER, self._ranks.ranks_of(self._node))
        held = Holdings(self._node, self._keeper.holdings(), self._durable(), ordered)
        try_write(self._control.publish_holdings, held)
        flush = self._decide(deadline)
        if flush is None:
            return None  # told where it went wrong
        error = self._write(flush, reason, deadline)
        try_write(self._control.report_flushed, self._node, error)
        if flush.name is not None and flush.writers[0] == self._node:
            self._tell(flush, error)
        self._await_others(flush, deadline)
        return flush

    def _decide(self, deadline: Deadline) -> Flush | None:
        silent_s = self._clock.monotonic() + SILENT_S
        while self._clock.monotonic() < deadline.at_s:
            if flush := self._control.flush_decision():
                return flush
            holdings = [held for held in self._control.holdings() if held.node in self._living]
            if {held.node for held in holdings} >= self._living or self._clock.monotonic() >= silent_s:
                flush = agree(holdings, {node: self._ranks.ranks_of(node) for node in self._ranks.nodes})
                if problem := try_write(self._control.decide_flush, flush):
                    self._undecided(problem)
                    return None
                continue  # the one that counts may be another's
            self._pause()
        self._undecided("the nodes came to no decision in time")
        return None

    def _undecided(self, why: str) -> None:
        self._events.note("checkpoint.failed", f"what memory holds was not saved: {why}", node=self._node,
                          evidence={"tier": TIER})

    def _write(self, flush: Flush, reason: str, deadline: Deadline) -> str:
        name = flush.name
        if name is None:
            return ""
        if not flush.is_ordered and (error := self._order(flush, name, reason, deadline)):
            return error
        left = set(flush.ranks_of(self._node))
        while left and self._clock.monotonic() < deadline.at_s:
            results = {rank: self._keeper.result(TIER, rank, name) for rank in left}
            if error := next((text for text in results.values() if text), ""):
                return error
            left = {rank for rank, result in results.items() if result is None}
            if left:
                self._pause()
        return f"time ran out after {self._clock.monotonic() - self._started_s:.0f} s" if left else ""

    def _order(self, flush: Flush, name: Name, reason: str, deadline: Deadline) -> str:
        ranks = flush.ranks_of(self._node)
        errors = [self._keeper.order(TIER, rank, name, self._task(flush, rank, reason, deadline)) for rank in ranks]
        if self._keeper.is_working(TIER, ranks):
            # It may wait for the share of a rank that died before it gave the order. The next writer begins with ours.
            self._restart_writer()
        return next(filter(None, errors), "")

    def _task(self, flush: Flush, rank: int, reason: str, deadline: Deadline) -> dict[str, Any]:
        commit = None
        if rank == 0:
            commit = {
                "world_size": flush.world_size, "world": {"world_size": flush.world_size, **self._values.get("world", {})},
                "time": self._clock.time(), "reason": reason, "retention": self._values.get("retention", {}),
                "patience_s": max(deadline.at_s - self._clock.monotonic(), 1.0),
            }
        return {"root": self._values["root"], "attempt": ATTEMPT, "commit": commit}

    def _tell(self, flush: Flush, error: str) -> None:
        assert flush.name is not None  # noqa: S101 - for the type checker: only called when there is one
        incarnation, step = flush.name
        seconds = round(self._clock.monotonic() - self._started_s, 3)
        evidence: dict[str, Any] = {
            "tier": TIER, "incarnation": incarnation, "nodes": sorted(flush.nodes), "seconds": seconds,
            "durable_step": flush.durable[1] if flush.durable else None,
        }
        if error:
            reason = f"step {step}, which only memory holds, was not saved: {error}"
            self._events.note("checkpoint.failed", reason, step=step, evidence=evidence)
            return
        since = flush.durable[1] if flush.durable and flush.durable[0] <= incarnation else 0
        evidence["steps_saved"] = max(step - since, 0)
        self._events.note("checkpoint.flushed", f"step {step} was saved from memory after the ranks had died", step=step,
                          evidence=evidence)

    def _await_others(self, flush: Flush, deadline: Deadline) -> None:
        while not flush.nodes <= set(self._control.flushed()) and self._clock.monotonic() < deadline.at_s:
            self._pause()
