"""The few calls that a training loop makes (service).

::

    checkpointer = Checkpointer(config)
    checkpointer.register(model=model, optimizer=optimizer, data=cursor, rng=True)
    step = checkpointer.restore()
    while step < steps:
        ...
        step += 1
        checkpointer.step(step)
    checkpointer.close()

Every call is made by every rank at the same point of its program. A save that fails is reported and tried again at the
next boundary; it never fails the training step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from hpctrain.checkpoint import codec, torch_state
from hpctrain.checkpoint.capture import Capture, capture
from hpctrain.checkpoint.commit import Committer, claim, discard, fenced
from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.checkpoint.fill import Progress
from hpctrain.checkpoint.manifest import CommitRecord, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import Ranks, error_of
from hpctrain.checkpoint.restore import Source, restore
from hpctrain.checkpoint.schedule import Decision, Schedule, retry_step
from hpctrain.checkpoint.shard_reader import ShardReader
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.checkpoint.write import write_share
from hpctrain.clock import Clock, SystemClock
from hpctrain.errors import CheckpointError

if TYPE_CHECKING:
    from hpctrain.checkpoint.tier_ram_saves import RamSaves

Notify = Callable[[str, str, int, Mapping[str, Any]], None]
"""Called on rank 0 with an event's kind, reason, step and evidence."""


@dataclass(frozen=True, slots=True)
class SaveResult:
    """How a save ended, the same on every rank.

    Attributes:
        error: why there is no new checkpoint; "" when there is one.
    """

    step: int
    error: str = ""

    @property
    def ok(self) -> bool:
        """The checkpoint exists."""
        return not self.error


class Checkpointer:
    """Saves and restores what was registered, on all ranks together.

    Args:
        config: where, when, how many; None reads the environment.
        ranks: how ranks agree; made here when not given (by all ranks at once).
        clock: for the schedule and time stamps.
        notify: told of every ``checkpoint.*`` event, on rank 0.
        progress: told, on every rank, the bytes that a restore has read and needs.

    Raises:
        StorageError: the directory cannot be made.
        CheckpointError: a newer incarnation already works here.
    """

    def __init__(
        self, config: CheckpointConfig | None = None, *, ranks: Ranks | None = None, clock: Clock | None = None,
        notify: Notify | None = None, progress: Progress | None = None,
    ) -> None:
        self.config = config or CheckpointConfig.from_env(os.environ)
        self.ranks = ranks or Ranks()
        self._clock: Clock = clock or SystemClock()
        self._notify, self._progress = notify, progress
        self._tier = SharedTier(self.config.root)
        self._schedule = Schedule(self.config.schedule.every_steps, self.config.schedule.every_s)
        self._items: dict[str, torch_state.Stateful] = {}
        self._rng: torch_state.RandomState | None = None
        self._last_save = self._clock.monotonic()
        self._saved_step: int | None = None
        self._failures = 0
        self._retry_at: int | None = None
        self.incarnation: int = self.ranks.on_first(lambda: claim(self._tier, self.config.incarnation))
        self._committer = Committer(self._tier, self.incarnation)
        self._ram: RamSaves | None = None
        if self.config.ram is not None:
            from hpctrain.checkpoint.tier_ram_saves import open_ram

            self._ram = open_ram(self.config, self.incarnation, self.ranks, self._clock, self._tell)

    @classmethod
    def from_env(cls) -> Checkpointer:
        """Take everything from the environment; see :meth:`CheckpointConfig.from_env`."""
        return cls()

    def register(self, *, model: Any = None, optimizer: Any = None, rng: bool = False, **more: torch_state.Stateful) -> None:
        """Name what is saved.

        Args:
            model: a module, wrapped or not.
            optimizer: of that module; its state is stored by parameter name.
            rng: also each rank's random generators.
            more: anything with ``state_dict`` and ``load_state_dict``, such as ``data=`` or ``scheduler=``; it is taken
                to be the same on every rank.

        Raises:
            TypeError: an object has no ``state_dict``, or an optimizer comes without its model.
        """
        if model is not None:
            self._items["model"] = torch_state.ModelState(model)
        if optimizer is not None:
            if model is None:
                raise TypeError("register(optimizer=...) needs model=... too: its state is stored by parameter name")
            self._items["optimizer"] = torch_state.OptimizerState(model, optimizer)
        for name, item in more.items():
            if not isinstance(item, torch_state.Stateful):
                raise TypeError(f"register({name}=...): a {type(item).__name__} has no state_dict and load_state_dict")
            self._items[name] = item
        if rng:
            self._rng = torch_state.RandomState()

    def restore(self) -> int:
        """Continue from the newest complete checkpoint; return its step, 0 when there is none.

        A damaged or untrusted one is passed over, with the reason, for the one before it.

        Raises:
            CheckpointError: there are checkpoints but none can be used, or it does not fit what is registered.
        """
        durable = self.ranks.on_first(lambda: self._tier.checkpoints(committed=True))
        in_memory = self._ram.complete() if self._ram is not None else []
        skipped: list[str] = []
        # The newest first; where both tiers have it, memory first, because it is faster.
        for name, is_durable in sorted([(name, True) for name in durable] + [(name, False) for name in in_memory],
                                       key=lambda item: (item[0], not item[1]), reverse=True):
            reason = self._try_restore(name, None if is_durable else self._ram)
            if not reason:
                self._saved(name.step)
                self._saved_step = name.step if name in durable else None
                return name.step
            skipped.append(f"{name}: {reason}")
            self._tell("checkpoint.skipped", f"{name} is passed over: {reason}", name.step, {"checkpoint": str(name)})
        if skipped and durable:  # memory that is damaged and holds all there was leaves nothing to mend
            raise CheckpointError(
                f"there are {len(skipped)} checkpoints and none can be used: " + "; ".join(skipped),
                where=str(self.config.root),
                hint="mend what the message names; to start from step 0 instead, move the directory away",
            )
        return 0

    def due(self, step: int) -> Decision:
        """Whether the schedule wants a save after ``step``, by this rank's clock; rank 0's answer counts."""
        passed = self._clock.monotonic() - self._last_save
        return self._schedule.due(step, seconds_since_save=passed, retry_at=self._retry_at)

    def step(self, step: int, *, stopping: bool = False, due: bool | None = None) -> SaveResult | None:
        """Save if it is time to; call once per completed step, on every rank.

        Args:
            stopping: save in any case, because the ranks are about to end.
            due: rank 0's :meth:`due`, if the caller has already told all ranks (the trainer sends it along with its
                loss); None lets this call agree on it.
        """
        if self._ram is not None and self._ram.due(step) and self._ram.save(step, self._collect):
            raise fenced(self.incarnation, self.incarnation + 1, "the RAM tier")
        if stopping:
            return self.save_now(step, "stop was requested")
        decision = self.due(step)
        if due is None:
            due = self.ranks.broadcast(decision.save) if self._schedule.uses_time else decision.save
        return self.save_now(step, decision.reason or "it was due") if due else None

    def save_now(self, step: int, reason: str) -> SaveResult:
        """Save in any case, unless this step is saved already; return how it ended.

        Raises:
            CheckpointError: a newer incarnation has taken over: these ranks must end.
        """
        if step == self._saved_step:
            return SaveResult(step)
        started = self._clock.monotonic()
        name = CheckpointName(self.incarnation, step)
        error, size_bytes = self._write(name, reason)
        if error:
            self._failures += 1
            self._retry_at = retry_step(step, self._failures)
            self.ranks.on_first(lambda: discard(self._tier, name))
            self._tell("checkpoint.failed", f"step {step} was not saved: {error}", step, {"cause": reason})
            return SaveResult(step, error)
        self._saved(step)
        seconds = self._clock.monotonic() - started
        evidence = {"checkpoint": str(name), "cause": reason, "seconds": round(seconds, 4), "size_bytes": size_bytes}
        self._tell("checkpoint.saved", f"{name} ({reason})", step, evidence)
        self.ranks.on_first(lambda: self._committer.prune(self.config.retention))
        return SaveResult(step)

    def has_checkpoint(self) -> bool:
        """Whether any complete checkpoint exists; asked of rank 0, told to all."""
        in_memory = self._ram is not None and bool(self._ram.complete())
        return in_memory or self.ranks.on_first(lambda: bool(self._tier.checkpoints(committed=True)))

    def close(self) -> None:
        """Finish. (The shared tier is written synchronously, so nothing is outstanding.)"""
        self._items.clear()
        if self._ram is not None:
            self._ram.close()
            self._ram = None

    # --- saving ---------------------------------------------------------------------------------------------------

    def _write(self, name: CheckpointName, reason: str) -> tuple[str, int]:
        """Write and commit; every rank returns the same error ("" for none) and size."""
        error = self.ranks.on_first(lambda: self._committer.prepare(name))
        if error:
            return error, 0
        collected: list[tuple[Capture, str]] = []
        error = self.ranks.first_error(error_of(lambda: collected.append(self._collect())))
        if error:
            return error, 0
        written: list[Share] = []
        folder, rank = self._tier.folder(name), self.ranks.rank
        captured, own = collected[0]
        error = error_of(lambda: written.append(write_share(
            folder, rank, captured.buffers(), own, aliases=captured.aliases, replicated=captured.fingerprint)))
        gathered = self.ranks.gather((error, written))
        world = {"world_size": self.ranks.world_size, **self.config.world}
        return self.ranks.on_first(
            lambda: self._committer.commit(name, gathered, time=self._clock.time(), reason=reason, world=world)
        )

    def _saved(self, step: int) -> None:
        self._saved_step, self._last_save = step, self._clock.monotonic()
        self._failures, self._retry_at = 0, None

    def _collect(self) -> tuple[Capture, str]:
        """This rank's share of the tensors, and the rest of its state as JSON."""
        tensors: dict[str, Any] = {}
        tree = {key: torch_state.split(item.state_dict(), key, tensors) for key, item in self._items.items()}
        if self._rng is not None:
            tree["rng"] = self._rng.state_dict()
        text = json.dumps(codec.encode(tree), separators=(",", ":"))
        return capture(tensors, self.ranks.rank, self.ranks.world_size), text

    # --- restoring ------------------------------------------------------------------------------------------------

    def _try_restore(self, name: CheckpointName, ram: RamSaves | None = None) -> str:
        """Verify and load one checkpoint; every rank returns the same reason why not, "" when it is loaded."""
        if ram is not None:
            return ram.restore(name, lambda source: restore(source, self._items, self._rng, self.ranks, self._progress))
        started = self._clock.monotonic()
        opened = self.ranks.on_first(lambda: self._open(name))
        if isinstance(opened, str):
            return opened
        commit, manifest = opened
        reader = ShardReader(self._tier.folder(name))
        where, read = str(self.config.root), partial(self._tier.read, name, manifest)
        source = Source(str(name), where, manifest, read, reader)
        try:
            reason = restore(source, self._items, self._rng, self.ranks, self._progress)
        finally:
            reader.close()
        if reason:
            return reason
        evidence = {"checkpoint": str(name), "seconds": round(self._clock.monotonic() - started, 4),
                    "size_bytes": manifest.size_bytes, "saved_by": dict(commit.world)}
        self._tell("checkpoint.restored", f"{name}, saved because {commit.reason}", name.step, evidence)
        return ""

    def _open(self, name: CheckpointName) -> tuple[CommitRecord, Manifest] | str:
        try:
            return self._tier.open(name)
        except (ValueError, OSError) as error:
            return str(error)

    def _tell(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        if self._notify is not None and self.ranks.is_first:
            self._notify(kind, reason, step, evidence)
