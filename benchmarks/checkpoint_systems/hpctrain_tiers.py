"""Our own checkpointer, as a training loop uses it (adapter over hpctrain).

Two nodes on this host: the rank's own, and the one whose memory gets the copies. Without the RAM tier there is neither,
and training waits until the shared tier is written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint_nodes import Nodes

from checkpoint_systems.interface import COMPLETE, LOCAL, PEER, RAM, SHARED, files_under, flush
from hpctrain.checkpoint import CheckpointConfig, Checkpointer
from hpctrain.checkpoint.config import LocalConfig, PeerConfig, RamConfig
from hpctrain.checkpoint.names import CheckpointName, part_file
from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.schedule import TierSchedule

if TYPE_CHECKING:
    from checkpoint_systems.interface import System, Tensors

HERE, THERE = "here", "there"
INCARNATION = 1
ALWAYS = TierSchedule(every_steps=1)


class Held:
    """Something with a state: tensors, and nothing else."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = tensors

    def state_dict(self) -> dict[str, Any]:
        """The tensors."""
        return dict(self.tensors)

    def load_state_dict(self, state_dict: Any) -> None:
        """Nothing is left to do: they were filled in place."""


class Tiers:
    """All tiers, each due at every step.

    Args:
        place: for the directories of the local and the shared tier.
        tiers: ``shared``, and what else is on.

    Raises:
        RuntimeError: it did not save, or restored something else.
    """

    flushes = True

    def __init__(self, place: Path, tiers: tuple[str, ...]) -> None:
        self._held, self._step, self.is_async = Held({}), 0, RAM in tiers
        self._shared, self._local = place / "shared", place / "local"
        self.levels = (*(level for level in (RAM, PEER, LOCAL) if level in tiers), COMPLETE)
        self.tiers = tiers
        self._events: list[tuple[Any, ...]] = []
        last = Retention(keep_last=1)
        self._config = CheckpointConfig(
            self._shared, schedule=ALWAYS, retention=last, incarnation=INCARNATION,
            ram=RamConfig(ALWAYS) if RAM in tiers else None, peer=PeerConfig(ALWAYS) if PEER in tiers else None,
            local=LocalConfig(self._local, ALWAYS, last) if LOCAL in tiers else None,
        )
        nodes = (HERE, THERE) if PEER in tiers else (HERE,)
        self._nodes = Nodes(place / "secret", nodes) if RAM in tiers else None
        if self._nodes is not None:
            os.environ.update(self._nodes.environment(HERE))
            self._nodes.start()
        self._checkpointer = self._open(self._config)

    def _open(self, config: CheckpointConfig) -> Checkpointer:
        checkpointer = Checkpointer(config, notify=lambda *event: self._events.append(event))
        checkpointer.register(state=self._held)
        return checkpointer

    def save(self, step: int, tensors: Tensors) -> None:
        self._held.tensors, self._step = tensors, step
        result = self._checkpointer.step(step)
        if result is None or not result.ok or result.tier != (RAM if self.is_async else SHARED):
            raise RuntimeError(f"hpctrain did not save: {result}; events: {self._events[-3:]}")

    @property
    def _name(self) -> CheckpointName:
        return CheckpointName(INCARNATION, self._step)

    def reached(self, level: str) -> bool:
        if level == PEER:
            return self._nodes is not None and self._name in self._nodes.holdings(THERE, "peer")
        if level == LOCAL:
            return (self._local / str(self._name) / part_file(0)).exists()
        return level == RAM or (self._shared / str(self._name) / "commit.json").exists()

    def make_durable(self) -> None:
        """Its files are when the commit record is there; the directory's flush may be under way."""
        flush([], self._shared / str(self._name))

    def forget_older(self) -> None:
        """Its own retention does."""

    def files(self) -> list[Path]:
        return [*files_under(self._shared), *(files_under(self._local) if self._local.exists() else ())]

    def restore(self, tier: str, targets: Tensors) -> None:
        """From memory with the checkpointer that saved; else with one of another node, or without other tiers."""
        self._held.tensors = targets
        if tier == RAM:
            self._check(self._checkpointer, tier)
            return
        local = self._config.local if tier == LOCAL else None
        ram, peer = (self._config.ram, self._config.peer) if tier == PEER else (None, None)
        root = self._shared if tier == SHARED else self._shared.with_name("nothing")
        # A rank that is started on the other node finds the copy in that node's memory.
        os.environ["HPCTRAIN_NODE"] = THERE if tier == PEER else HERE
        try:
            only = self._open(replace(self._config, root=root, ram=ram, peer=peer, local=local))
        finally:
            os.environ["HPCTRAIN_NODE"] = HERE
        try:
            self._check(only, tier)
        finally:
            only.close(flush=False)

    def _check(self, checkpointer: Checkpointer, tier: str) -> None:
        step = checkpointer.restore()
        told = next(event for event in reversed(self._events) if event[0] == "checkpoint.restored")
        if step != self._step or [tier] != list(told[3]["tiers"]):
            raise RuntimeError(f"hpctrain restored step {step}, not {self._step} from {tier}; events: {self._events[-3:]}")

    def close(self) -> None:
        self._checkpointer.close()
        if self._nodes is not None:
            self._nodes.stop()


def make(place: Path, tensors: Tensors, options: Mapping[str, Any]) -> System:  # noqa: ARG001 - the same for all
    """``tiers``: that are on."""
    return Tiers(place, tuple(options["tiers"]))
