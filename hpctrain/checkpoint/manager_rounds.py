"""How ranks save together (service).

At a meeting every rank copies its share into memory; then rank 0 hears how that went and what has become of the orders to
the writer, decides what the writer is to do next, and tells all, with the step of the next meeting. So one gather and one
broadcast carry everything, and between meetings nobody communicates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hpctrain.checkpoint.agenda import Meeting
from hpctrain.checkpoint.commit import fenced
from hpctrain.checkpoint.manager_chair import PEER, RAM, SHARED, Chair, Outcome, Plan, Tell
from hpctrain.checkpoint.manager_orders import Orders
from hpctrain.checkpoint.manager_sync import Collect, SyncWriter
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.schedule import span
from hpctrain.checkpoint.schedule_cost import PLANNED, RunHistory
from hpctrain.checkpoint.tier_ram_saves import RamSaves, Staged
from hpctrain.clock import Clock

_PAUSE_FIRST_S, _PAUSE_LIMIT_S = 0.005, 0.25


@dataclass(frozen=True, slots=True)
class SaveResult:
    """How a save ended, the same on every rank.

    Attributes:
        error: why there is no new checkpoint; "" when there is one.
        tier: where it is now: ``ram`` (the writer does the rest), or the durable tier that training waited for.
    """

    step: int
    error: str = ""
    tier: str = SHARED

    @property
    def ok(self) -> bool:
        """The checkpoint exists."""
        return not self.error


@dataclass(frozen=True, slots=True)
class Desk:
    """What a rank needs to take part.

    Attributes:
        ram: its share of the RAM tier; None where there is none, on all ranks.
        orders: to its node's writer.
        stores: the tiers that ranks can write themselves.
        collect: makes its share of the state.
        world: layout of the ranks, stored with every checkpoint.
        patience_s: longest wait for the writer.
        waiting: called again and again while training waits for a save.
    """

    ram: RamSaves | None
    orders: Orders
    stores: Mapping[str, SyncWriter]
    collect: Collect
    world: Mapping[str, Any]
    patience_s: float
    waiting: Callable[[str], None]


class Rounds:
    """Saves of all ranks.

    Args:
        chair: decides; only rank 0's is asked.
        tell: of what only this class sees.

    Attributes:
        meeting: the next one.
        durable: newest step known to be in the shared tier.
    """

    def __init__(self, desk: Desk, chair: Chair, ranks: Ranks, incarnation: int, *, clock: Clock, tell: Tell) -> None:
        self._desk, self._chair, self._ranks, self._incarnation = desk, chair, ranks, incarnation
        self._clock, self._tell = clock, tell
        self._history, self._began_s = RunHistory(), clock.monotonic()
        self._metrics: Mapping[str, Any] = {}  # of the newest checkpoint in memory
        self.durable: int | None = None
        self.meeting = Meeting(0)

    def start(
        self, step: int, *, durable: int | None = None, history: RunHistory | None = None,
        restored: CheckpointName | None = None,
    ) -> None:
        """Count from here: the ranks begin, or have restored this step."""
        self._history, self._began_s = history or RunHistory(), self._clock.monotonic()
        self.meeting = self._ranks.broadcast(self._chair.restart(step, durable, restored))
        self.durable = durable

    def attend(self, step: int, metrics: Mapping[str, Any]) -> SaveResult | None:
        """Meet after ``step`` and save what is due; None if nothing was.

        Raises:
            FencedError: a newer incarnation has taken over: these ranks must end.
        """
        self._chair.arrive(step, self._lived())
        if self.meeting.certain:
            plan = Plan(memory=True, reason=self.meeting.reason)
        else:
            plan = self._ranks.broadcast(self._chair.plan(step) if self._ranks.is_first else Plan())
        if plan.memory:
            return self._save_in_memory(step, plan.reason, metrics, {})
        if plan.sync:
            return self._save_sync(step, plan.sync, metrics)
        if plan.look:
            self._meet(step, None)
        elif plan.meeting is not None:
            self.meeting = plan.meeting
        return None

    def save_now(self, step: int, reason: str, metrics: Mapping[str, Any]) -> SaveResult:
        """Make the state of ``step`` durable, and wait for that; a collective call.

        Raises:
            FencedError: see :meth:`attend`.
        """
        if step == self.durable:
            return SaveResult(step)
        problem = ""
        if self._desk.ram is not None and SHARED in self._desk.orders.tiers:
            problem = self._write_behind(step, reason, metrics)
            if step == self.durable:
                return SaveResult(step)
            self._tell("checkpoint.degraded", f"training waits while step {step} is written, because {problem}", step,
                       {"tier": SHARED})
        return self._save_sync(step, {SHARED: reason}, metrics)

    def flush(self, *, memory: bool) -> None:
        """Wait for all orders, as long as the patience lasts; first, with ``memory``, order what only memory holds."""
        newest = self._desk.ram.complete if self._desk.ram is not None and memory else None
        deadline = self._clock.monotonic() + self._desk.patience_s
        is_ours = newest is not None and newest.incarnation == self._incarnation
        if newest is not None and is_ours and self._wait(SHARED, deadline) and newest.step != self.durable:
            self._meet(newest.step, None, name=newest, force={SHARED: PLANNED[1]}, metrics=self._metrics)
        for tier in self._desk.orders.tiers:
            if tier != PEER:
                self._wait(tier, deadline)

    # --- in memory, and the rest behind training's back -----------------------------------------------------------

    def _save_in_memory(self, step: int, reason: str, metrics: Mapping[str, Any], force: Mapping[str, str]) -> SaveResult:
        assert self._desk.ram is not None  # noqa: S101 - for the type checker: the plan says so
        name = CheckpointName(self._incarnation, step)
        staged = self._desk.ram.stage(step, self._desk.collect, reason=reason, world=self._about(metrics),
                                      ordered=self._desk.orders.untaken)
        outcome = self._meet(step, staged, name=name, force=force, metrics=metrics)
        if outcome.sync:
            return self._save_sync(step, outcome.sync, metrics)
        return SaveResult(step, outcome.error, RAM)

    def _meet(
        self, step: int, staged: Staged | None, *, name: CheckpointName | None = None,
        force: Mapping[str, str] | None = None, metrics: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """One gather, one broadcast; then each rank places its orders."""
        gathered = self._ranks.gather((staged, self._desk.orders.reports()))
        made: Any = self._chair.conclude(step, gathered, name, force or {}) if self._ranks.is_first else None
        outcome: Outcome = self._ranks.broadcast(made)
        if outcome.overtaken:
            raise fenced(self._incarnation, self._incarnation + 1, "the checkpoints of this run")
        self.meeting, self.durable = outcome.meeting, outcome.durable
        if self._desk.ram is not None and staged is not None and not outcome.error:
            self._desk.ram.complete, self._metrics = name, dict(metrics or {})
        if name is not None:
            for tier, (attempt, reason) in outcome.orders.items():
                self._desk.orders.post(tier, name, attempt, reason=reason, time=self._clock.time(),
                                       world=self._about(metrics or {}), keep=outcome.keep.get(tier))
        return outcome

    def _write_behind(self, step: int, reason: str, metrics: Mapping[str, Any]) -> str:
        """Let the writer make the step durable; why it did not, "" if it did."""
        assert self._desk.ram is not None  # noqa: S101 - for the type checker: the caller has asked
        deadline = self._clock.monotonic() + self._desk.patience_s
        if not self._wait(SHARED, deadline):
            return "the writer still writes an older step"
        if step == self.durable:
            return ""
        complete, force = self._desk.ram.complete, {SHARED: reason}
        if complete is not None and complete == CheckpointName(self._incarnation, step):
            self._meet(step, None, name=complete, force=force, metrics=metrics)
        elif not (result := self._save_in_memory(step, reason, metrics, force)).ok:
            return result.error
        if step != self.durable and not self._wait(SHARED, deadline):
            return f"the writer has not finished after {span(self._desk.patience_s)}"
        return "" if step == self.durable else "the writer could not write it"

    def _wait(self, tier: str, deadline: float) -> bool:
        """Wait until there is no order for a tier any more; False if that takes too long. A collective call."""
        pause = _PAUSE_FIRST_S
        while True:
            gathered = self._ranks.gather(self._desk.orders.reports())
            is_open = self._ranks.is_first and tier in self._chair.settle(gathered)
            out_of_time = self._clock.monotonic() >= deadline
            is_open, out_of_time, self.durable = self._ranks.broadcast((is_open, out_of_time, self._chair.durable))
            if not is_open or out_of_time:
                return not is_open
            self._desk.waiting(f"waiting for the {tier} checkpoint")
            self._clock.sleep(pause)
            pause = min(2 * pause, _PAUSE_LIMIT_S)

    # --- with training standing still -----------------------------------------------------------------------------

    def _save_sync(self, step: int, tiers: Mapping[str, str], metrics: Mapping[str, Any]) -> SaveResult:
        """All ranks write the tiers themselves."""
        name, first = CheckpointName(self._incarnation, step), ""
        for tier, reason in tiers.items():
            self._desk.waiting(f"writing the {tier} checkpoint")
            started = self._clock.monotonic()
            error, size_bytes = self._desk.stores[tier].save(
                name, self._desk.collect, time=self._clock.time(), reason=reason, world=self._about(metrics))
            first = first or error
            if tier == SHARED and not error:
                self.durable = step
            if self._ranks.is_first:
                self._chair.written(tier, name, reason, error, size_bytes=size_bytes, started_s=started)
        self.meeting = self._ranks.broadcast(self._chair.adjourn(step))
        return SaveResult(step, first, next(iter(tiers)))

    def _about(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        about = {**self._desk.world, "run": self._lived().to_json()}
        return {**about, "metrics": dict(metrics)} if metrics else about

    def _lived(self) -> RunHistory:
        return replace(self._history, seconds=self._history.seconds + self._clock.monotonic() - self._began_s)
