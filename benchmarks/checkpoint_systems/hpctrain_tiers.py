"""Our own checkpointer, as a training loop uses it (adapter over hpctrain)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint_systems.interface import COMPLETE, RAM, SHARED, files_under
from hpctrain.checkpoint import CheckpointConfig, Checkpointer
from hpctrain.checkpoint.config import RamConfig
from hpctrain.checkpoint.retention import Retention

if TYPE_CHECKING:
    from checkpoint_systems.interface import System, Tensors


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
    """The checkpointer with or without the tier in memory.

    Raises:
        RuntimeError: it did not save, or restored something else.
    """

    flushes, is_async = True, False

    def __init__(self, place: Path, tensors: Tensors, *, ram: bool) -> None:
        self._root, self._held, self._step = place, Held(tensors), 0
        self._has_ram = ram
        self.levels = (RAM, COMPLETE) if ram else (COMPLETE,)
        self.tiers = (SHARED,)
        config = CheckpointConfig(place, retention=Retention(keep_last=1), ram=RamConfig() if ram else None)
        self._checkpointer = Checkpointer(config)
        self._checkpointer.register(state=self._held)

    def save(self, step: int, tensors: Tensors) -> None:
        self._held.tensors, self._step = tensors, step
        self._checkpointer.step(step)
        if not (result := self._checkpointer.save_now(step, "benchmark")).ok:
            raise RuntimeError(f"hpctrain did not save: {result.error}")

    def reached(self, level: str) -> bool:
        return level in self.levels

    def make_durable(self) -> None:
        """It is, when it is complete."""

    def forget_older(self) -> None:
        """Its own retention does."""

    def files(self) -> list[Path]:
        return files_under(self._root)

    def restore(self, tier: str, targets: Tensors) -> None:  # noqa: ARG002 - there is only one so far
        self._held.tensors = targets
        if (step := self._checkpointer.restore()) != self._step:
            raise RuntimeError(f"hpctrain restored step {step}, not {self._step}")

    def close(self) -> None:
        self._checkpointer.close()


def make(place: Path, tensors: Tensors, options: Mapping[str, Any]) -> System:
    """``ram``: with the tier in memory."""
    return Tiers(place, tensors, ram=options["ram"])
