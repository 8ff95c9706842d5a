"""The few calls that a training loop makes (service).

::

    checkpointer = Checkpointer.from_env()
    checkpointer.register(model=model, optimizer=optimizer, data=cursor, rng=True)
    step = checkpointer.restore()
    while step < steps:
        ...
        step += 1
        checkpointer.step(step)
    checkpointer.close()

Every call is made by every rank at the same point of its program. A save that fails is reported and tried again; it never
fails the training step. docs/checkpoint-library.md is the guide.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hpctrain.checkpoint import torch_state
from hpctrain.checkpoint.agenda import Agenda, Turn
from hpctrain.checkpoint.commit import claim
from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.checkpoint.fill import Progress
from hpctrain.checkpoint.manager_chair import Chair
from hpctrain.checkpoint.manager_orders import Orders
from hpctrain.checkpoint.manager_rounds import Desk, Rounds, SaveResult
from hpctrain.checkpoint.manager_state import Registered
from hpctrain.checkpoint.manager_sync import SyncWriter
from hpctrain.checkpoint.parts import PartTier
from hpctrain.checkpoint.ranks import Ranks, error_of
from hpctrain.checkpoint.restore_search import Search
from hpctrain.checkpoint.schedule import LONGEST_AUTO_S, LONGEST_MEMORY_S
from hpctrain.checkpoint.schedule_cost import PLANNED, FailureRate, RunHistory
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.tier_local import LocalTier
from hpctrain.checkpoint.tier_ram_saves import RamSaves, open_ram
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.clock import Clock, SystemClock

__all__ = ["Checkpointer", "Notify", "SaveResult"]

Notify = Callable[[str, str, int, Mapping[str, Any]], None]
"""Called on rank 0 with an event's kind, reason, step and evidence."""


class Checkpointer:
    """Saves and restores what was registered, on all ranks together.

    Args:
        config: where, when, how many; None reads the environment.
        ranks: how ranks agree; made here when not given (by all ranks at once).
        clock: for the schedule and time stamps.
        notify: told of every ``checkpoint.*`` event, on rank 0; None prints them on standard error.
        progress: told, on every rank, the bytes that a restore has read and needs.
        waiting: told, on every rank, again and again, what training waits for while a save holds it up.

    Raises:
        StorageError: the directory cannot be made.
        CheckpointError: a newer incarnation already works here.
        UsageError: the environment does not say where to save, or says it wrongly.
    """

    def __init__(
        self, config: CheckpointConfig | None = None, *, ranks: Ranks | None = None, clock: Clock | None = None,
        notify: Notify | None = None, progress: Progress | None = None, waiting: Callable[[str], None] | None = None,
    ) -> None:
        self.config = _absolute(config or CheckpointConfig.from_env(os.environ))
        self.ranks = ranks or Ranks()
        self._clock: Clock = clock or SystemClock()
        self._notify, self._progress = notify or _print, progress
        self._tier = SharedTier(self.config.root)
        self._state = Registered()
        self.incarnation: int = self.ranks.on_first(lambda: claim(self._tier, self.config.incarnation))
        self._object = self._open_object()
        self._ram: RamSaves | None = None
        if self.config.ram is not None:
            self._ram = open_ram(self.config, self.incarnation, self.ranks, self._clock, self._tell)
        self._rounds = self._make_rounds(waiting or _ignore)
        self._step = 0
        self._rounds.start(0)

    @classmethod
    def from_env(cls, **options: Any) -> Checkpointer:
        """Take the configuration from the environment; see :meth:`CheckpointConfig.from_env`.

        Args:
            options: further arguments of :class:`Checkpointer`, such as ``notify``.
        """
        return cls(None, **options)

    def register(self, *, model: Any = None, optimizer: Any = None, rng: bool = False, **more: torch_state.Stateful) -> None:
        """Name what is saved.

        Args:
            model: a module, wrapped or not; of one with a peft adapter only what is trained.
            optimizer: of that module; its state is stored by parameter name.
            rng: also each rank's random generators.
            more: anything with ``state_dict`` and ``load_state_dict``, such as ``data=`` or ``scheduler=``; it is taken
                to be the same on every rank.

        Raises:
            TypeError: an object has no ``state_dict``, or an optimizer comes without its model.
        """
        self._state.add(model, optimizer, rng=rng, more=more)

    def restore(
        self, before: int | None = None, skip_data: int = 0, *, back: int = 1, reached: int | None = None
    ) -> int:
        """Continue from the newest complete checkpoint that all ranks can get; return its step, 0 when there is none.

        Each rank's part may come from another tier. What is damaged or not to be trusted is passed over, with the reason.

        Args:
            before: rewind: only checkpoints of steps below this count, and newer ones exist no more afterwards.
            skip_data: call ``skip(skip_data)`` of what was registered as ``data``, after it was restored.
            back: with ``before``: how many checkpoints to go back; 1 takes the newest that is old enough.
            reached: the last step that the caller knows to have been completed, to tell how many steps are lost.

        Raises:
            CheckpointError: there are checkpoints but none can be used, or it does not fit what is registered.
            UsageError: the registered data cannot skip.
        """
        if skip_data:
            self._state.check_skip()
        restored = self._search().restore(self._state.items, self._state.rng, before=before, back=back, reached=reached)
        self._state.skip(skip_data)
        self._step = restored.step if restored is not None else 0
        is_durable = restored is not None and "shared" in restored.stores
        if self._ram is not None and restored is not None:
            self._ram.complete = restored.name  # kept until a newer one is complete
        history = None if restored is None else RunHistory.continued(
            restored.world, restored.cause, by_new_start=restored.name.incarnation < self.incarnation)
        self._rounds.start(self._step, durable=self._step if is_durable else None, history=history,
                           restored=None if restored is None else restored.name)
        return self._step

    def step(self, step: int, metrics: Mapping[str, Any] | None = None, *, stopping: bool = False) -> SaveResult | None:
        """Save if it is time to; call once per completed step, on every rank. None: nothing was due.

        Args:
            metrics: of this step, stored with its checkpoint: ``keep_best`` chooses by them.
            stopping: save in any case, durably, because the ranks are about to end.

        Raises:
            CheckpointError: a newer incarnation has taken over: these ranks must end.
        """
        self._step = step
        if stopping:
            return self._rounds.save_now(step, PLANNED[0], metrics or {})
        if not self.is_due(step):
            return None
        return self._rounds.attend(step, metrics or {})

    def is_due(self, step: int) -> bool:
        """Whether :meth:`step` will do more than look at the number; the same on all ranks, and asks nobody."""
        return step >= self._rounds.meeting.step

    def save_now(self, reason: str, *, metrics: Mapping[str, Any] | None = None, step: int | None = None) -> SaveResult:
        """Save the state as it is, durably, unless it is saved already; return how it ended.

        Args:
            reason: stored with the checkpoint.
            step: completed steps; None: the last one that :meth:`step` was called with.

        Raises:
            CheckpointError: a newer incarnation has taken over: these ranks must end.
        """
        self._step = self._step if step is None else step
        return self._rounds.save_now(self._step, reason, metrics or {})

    def has_checkpoint(self) -> bool:
        """Whether any complete checkpoint exists; asked of rank 0, told to all."""
        complete = self._ram is not None and self._ram.complete is not None
        return complete or self.ranks.on_first(lambda: bool(self._tier.checkpoints(committed=True)))

    def close(self, *, flush: bool = True) -> None:
        """Finish: wait for saves that are under way. Nothing can be saved afterwards.

        Args:
            flush: first make durable what only memory holds.
        """
        if self._ram is not None:
            self._rounds.flush(memory=flush)
            self._ram.close()
            self._ram = None
        self._state.clear()

    def _collect(self) -> tuple[Any, str]:
        return self._state.collect(self.ranks.rank, self.ranks.world_size)

    def _search(self) -> Search:
        stores: list[Store] = [self._tier] if self._object is None else [self._tier, self._object]
        tiers: list[PartTier] = [] if self._ram is None else self._ram.parts()
        if self.config.local is not None:
            tiers.append(LocalTier(self.config.local.path))
        return Search(self.ranks, stores, tiers, clock=self._clock, tell=self._tell, progress=self._progress, node=_node())

    def _open_object(self) -> Store | None:
        """The object store, claimed if it can be reached now; the commit protocol fences old writers there in any case."""
        if self.config.object is None:
            return None
        from hpctrain.checkpoint.tier_object import ObjectTier  # which brings fsspec, that others do not need

        store = ObjectTier(self.config.object.url)
        error = self.ranks.on_first(lambda: error_of(lambda: store.claim(self.incarnation)))
        if error:
            self._tell("checkpoint.degraded", f"object: {error}", 0, {"tier": "object"})
        return store

    def _make_rounds(self, waiting: Callable[[str], None]) -> Rounds:
        config, ranks = self.config, self.ranks
        orders = Orders(config, ranks, self._ram)
        stores = {"shared": SyncWriter(self._tier, self.incarnation, ranks, config.retention)}
        if self._object is not None and config.object is not None:
            stores["object"] = SyncWriter(self._object, self.incarnation, ranks, config.object.retention)
        world = {"world_size": ranks.world_size, **config.world}
        desk = Desk(self._ram, orders, stores, self._collect, world, config.patience_s, waiting)
        chair = Chair(self._make_agenda(), orders.tiers, stores, clock=self._clock, tell=self._tell)
        return Rounds(desk, chair, ranks, self.incarnation, clock=self._clock, tell=self._tell)

    def _make_agenda(self) -> Agenda:
        config = self.config
        nodes = self.ranks.gather(_node())
        turns = [Turn("shared", config.schedule, insists=True)]
        if config.object is not None:
            turns.append(Turn("object", config.object.schedule, insists=True))
        if self._ram is not None and config.ram is not None:
            turns.insert(0, Turn("ram", config.ram.schedule, longest_s=LONGEST_MEMORY_S))
            for tier, settings in (("peer", config.peer), ("local", config.local)):
                if settings is not None:
                    longest_s = LONGEST_MEMORY_S if tier == "peer" else LONGEST_AUTO_S
                    turns.append(Turn(tier, settings.schedule, insists=True, longest_s=longest_s))
        return Agenda(turns, FailureRate(max(1, len(set(nodes))), config.mttf_s), config.overhead_cap)

    def _tell(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        if self.ranks.is_first:
            self._notify(kind, reason, step, evidence)


def _node() -> str:
    """Ranks that give the same name see the same memory and local disk."""
    return os.environ.get("HPCTRAIN_NODE") or socket.gethostname()


def _absolute(config: CheckpointConfig) -> CheckpointConfig:
    """The same places for every process: the writer, which may be an older one, has another working directory."""
    local = config.local and replace(config.local, path=config.local.path.absolute())
    return replace(config, root=config.root.absolute(), local=local)


def _print(kind: str, reason: str, _step: int, _evidence: Mapping[str, Any]) -> None:
    """For callers that have no event log: what happens to their checkpoints must not go unseen."""
    print(f"{kind}: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - that is what it is for


def _ignore(_text: str) -> None:
    """For callers that have no heartbeat."""
