"""What rank 0 decides when ranks save together (service).

It keeps the agenda and the orders to the writers of all ranks, and is the only one that speaks: each tier's trouble is told
when it begins and when it ends, not at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hpctrain.checkpoint.agenda import Agenda, Meeting
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.orders import Order, Report, Settled, is_late, settle
from hpctrain.checkpoint.ranks import lowest_error
from hpctrain.checkpoint.schedule import span
from hpctrain.checkpoint.schedule_cost import RunHistory
from hpctrain.checkpoint.tier_ram_saves import Staged
from hpctrain.clock import Clock

Tell = Callable[[str, str, int, Mapping[str, Any]], None]
"""Told of an event's kind, reason, step and evidence; on rank 0."""

RAM, PEER, SHARED = "ram", "peer", "shared"
_OF_NODES = (PEER, "local")
_NEWS = 4.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done at a meeting: a copy into memory, ``sync`` writes (tier -> reason), a look at the orders, or nothing.

    Attributes:
        meeting: the next one, if nothing is done.
    """

    memory: bool = False
    sync: Mapping[str, str] = field(default_factory=dict)
    look: bool = False
    reason: str = ""
    meeting: Meeting | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What rank 0 made of a meeting.

    Attributes:
        error: why there is no copy in memory.
        orders: to the writer, tier -> (number of the attempt, reason).
        sync: tiers that all ranks must write now, since no writer does it.
        keep: newest checkpoint of a tier of nodes that is whole there; it must stay until a newer one is.
        durable: newest step known to be in the shared tier.
    """

    error: str
    overtaken: bool
    orders: Mapping[str, tuple[int, str]]
    sync: Mapping[str, str]
    meeting: Meeting
    durable: int | None
    keep: Mapping[str, CheckpointName] = field(default_factory=dict)


class Chair:
    """Rank 0's mind.

    Args:
        agenda: with a turn for each tier.
        behind: the tiers that the writer writes.
        stores: the tiers that ranks can write themselves.
        tell: of events.
    """

    def __init__(
        self, agenda: Agenda, behind: Collection[str], stores: Collection[str], *, clock: Clock, tell: Tell
    ) -> None:
        self._agenda, self._behind, self._stores, self._clock, self._tell = agenda, behind, stores, clock, tell
        self._open: dict[str, Order] = {}
        self._unserved: set[str] = set()  # stores whose last order no writer has taken
        self._attempts = 0
        self._told_intervals: dict[str, float] = {}
        self._whole: dict[str, CheckpointName] = {}  # tier of nodes -> newest that all ranks have there
        self.durable: int | None = None

    def restart(self, step: int, durable: int | None, restored: CheckpointName | None = None) -> Meeting:
        """Count from this step; the first meeting."""
        # Whoever does not hold it has nothing to keep.
        self._whole = {} if restored is None else dict.fromkeys(_OF_NODES, restored)
        self._agenda.restart(step, self._clock.monotonic())
        self.durable = durable
        return self.adjourn(step)

    def arrive(self, step: int, history: RunHistory) -> None:
        """The ranks meet; what the run has lived through counts for how often it is expected to fail."""
        self._agenda.rate = replace(self._agenda.rate, failures=history.failures, observed_s=history.seconds)
        self._agenda.arrive(step, self._clock.monotonic())

    def adjourn(self, step: int) -> Meeting:
        """The next meeting."""
        now = self._clock.monotonic()
        self._agenda.leave(now)
        meeting = self._agenda.next_meeting(step, now)
        # Without memory, how it is saved must be decided then.
        return meeting if self._has_memory(now) else replace(meeting, certain=False)

    def plan(self, step: int) -> Plan:
        """What is to be done after ``step``."""
        now = self._clock.monotonic()
        due = self._agenda.due(step, now)
        if due and self._has_memory(now):
            return Plan(memory=True, reason="; ".join(dict.fromkeys(due.values())))
        missed = self._agenda.missed(step)
        if missed and self._has_memory(now):
            # The tier is slower than its saves are frequent; what was asked for is safe from the death of ranks at least.
            return Plan(memory=True, reason=missed)
        sync = {tier: why for tier, why in due.items() if tier in self._stores}
        if sync:
            return Plan(sync=sync)
        return Plan(look=True) if self._open else Plan(meeting=self.adjourn(step))

    def conclude(
        self, step: int, gathered: Sequence[tuple[Staged | None, Mapping[str, Report]]], name: CheckpointName | None,
        force: Mapping[str, str],
    ) -> Outcome:
        """Make one outcome of what all ranks tell.

        Args:
            gathered: of each rank, how its copy went if it made one, and its orders.
            name: the checkpoint in memory that can be ordered.
            force: tiers to order in any case, with the reason.
        """
        now = self._clock.monotonic()
        self.settle([reports for _, reports in gathered])
        copies = [one for one, _ in gathered if one is not None]
        error = lowest_error([one.error for one in copies])
        overtaken = any(one.overtaken for one in copies) or any(
            report.overtaken for _, reports in gathered for report in reports.values())
        due = self._agenda.due(step, now)
        orders: dict[str, tuple[int, str]] = {}
        sync: dict[str, str] = {}
        if error and not overtaken:
            sync = self._memory_failed(step, error, copies, now, due)
        elif not error and name is not None:
            if copies:
                self._memory_saved(step, copies, now)
            wanted = {**due, **force} if copies else dict(force)
            # Where there is no writer, ranks write every other time, and ask again in between whether there is one.
            behind = {tier for tier in self._behind if tier not in self._unserved}
            orders = self._order({tier: why for tier, why in wanted.items() if tier in behind}, name, copies, now)
            sync = {tier: why for tier, why in wanted.items() if tier in self._stores and tier not in behind}
        self._tell_intervals(step)
        return Outcome(error, overtaken, orders, sync, self.adjourn(step), self.durable, dict(self._whole))

    def settle(self, reports: Sequence[Mapping[str, Report]]) -> Collection[str]:
        """Learn what has become of the orders; the tiers that still have one."""
        now = self._clock.monotonic()
        for tier, order in list(self._open.items()):
            cost = self._agenda.turns[tier].meter.cost()
            usual_s = cost.persist_s if cost is not None else 0.0
            settled = settle(order, [one.get(tier) for one in reports], now, usual_s)
            if settled is not None:
                del self._open[tier]
                self._close_order(settled, now)
            elif not order.late and is_late(order, now, usual_s):
                order.late = True
                text = f"{tier}: {order.name} is still being written after {span(now - order.posted_s)}; training goes on"
                self._tell("checkpoint.degraded", text, order.name.step, {"tier": tier, "checkpoint": str(order.name)})
        return set(self._open)

    def written(
        self, tier: str, name: CheckpointName, reason: str, error: str, *, size_bytes: int, started_s: float
    ) -> None:
        """All ranks have written a store themselves, or failed to."""
        now = self._clock.monotonic()
        turn = self._agenda.turns[tier]
        self._unserved.discard(tier)
        if error:
            turn.failed(now)
            evidence = {"cause": reason, "tier": tier}
            self._tell("checkpoint.failed", f"step {name.step} was not saved: {error}", name.step, evidence)
            return
        turn.saved(name.step, now)
        if turn.succeeded() and tier in self._behind:
            self._tell("checkpoint.recovered", f"{tier}: {name} is saved, by the ranks", name.step, {"tier": tier})
        turn.meter.stalled(now - started_s)
        self._saved(tier, name, reason, now - started_s, size_bytes)

    def _has_memory(self, now: float) -> bool:
        return RAM in self._agenda.turns and now >= self._agenda.turns[RAM].not_before_s

    def _memory_saved(self, step: int, copies: list[Staged], now: float) -> None:
        turn = self._agenda.turns[RAM]
        turn.saved(step, now)
        if not any(one.allocated for one in copies):
            turn.meter.stalled(max(one.stall_s for one in copies))
        if turn.succeeded():
            self._tell("checkpoint.recovered", f"step {step} is in memory again", step, {"tier": RAM})

    def _memory_failed(
        self, step: int, error: str, copies: list[Staged], now: float, due: Mapping[str, str]
    ) -> dict[str, str]:
        """No copy in memory: the stores that are due now must be written by the ranks."""
        turn = self._agenda.turns[RAM]
        if any(one.is_busy for one in copies):
            turn.postponed(now)  # somebody reads, or the writer is slower than saves are frequent: nothing is wrong
            return {}
        if turn.failed(now):
            self._tell("checkpoint.degraded", f"step {step} is not in memory: {error}", step, {"tier": RAM})
        return {tier: why for tier, why in due.items() if tier in self._stores}

    def _order(
        self, due: Mapping[str, str], name: CheckpointName, copies: list[Staged], now: float
    ) -> dict[str, tuple[int, str]]:
        orders = {}
        for tier, reason in due.items():
            self._attempts += 1
            self._open[tier] = Order(tier, name, reason, now)
            orders[tier] = (self._attempts, reason)
            turn = self._agenda.turns[tier]
            turn.saved(name.step, now)
            turn.busy = True
            if copies and not any(one.allocated for one in copies):
                turn.meter.stalled(max(one.stall_s for one in copies))
        return orders

    def _close_order(self, settled: Settled, now: float) -> None:
        order, turn = settled.order, self._agenda.turns[settled.order.tier]
        step, evidence = order.name.step, {"checkpoint": str(order.name), "tier": order.tier, "cause": order.reason}
        turn.busy = False
        if settled.untaken and order.tier in self._stores:
            self._unserved.add(order.tier)
        if settled.error:
            if turn.failed(now):
                text = f"{order.tier}: step {step} was not saved, and is tried again: {settled.error}"
                self._tell("checkpoint.degraded", text, step, evidence)
            return
        turn.meter.persisted(settled.seconds)
        if order.tier in _OF_NODES:
            self._whole[order.tier] = order.name
        recovered = turn.succeeded()
        if recovered or order.late:
            self._tell("checkpoint.recovered", f"{order.tier}: {order.name} is saved", step, evidence)
        self._saved(order.tier, order.name, order.reason, settled.seconds, settled.size_bytes)

    def _saved(self, tier: str, name: CheckpointName, reason: str, seconds: float, size_bytes: int) -> None:
        if tier == SHARED:
            self.durable = name.step
        if tier != PEER:  # as frequent as copies in memory, which are not told of either
            evidence = {"checkpoint": str(name), "tier": tier, "cause": reason, "seconds": round(seconds, 4),
                        "size_bytes": size_bytes}
            self._tell("checkpoint.saved", f"{name} ({reason})", name.step, evidence)

    def _tell_intervals(self, step: int) -> None:
        """An interval that ``auto`` chose is news when it is the first one, or far from what was told."""
        for tier, interval in self._agenda.intervals().items():
            told = self._told_intervals.get(tier)
            if not self._agenda.turns[tier].schedule.is_auto or not interval.seconds:
                continue
            if told is None or not told / _NEWS < interval.seconds < told * _NEWS:
                self._told_intervals[tier] = interval.seconds
                evidence = {"tier": tier, "every_s": round(interval.seconds, 3)}
                self._tell("checkpoint.schedule", f"{tier}: {interval.reason}", step, evidence)
