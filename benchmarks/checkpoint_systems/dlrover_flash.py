"""DLRover's flash checkpoint: shared memory, and a process that saves from it (adapter over dlrover, which has no types).

Without ``dlrover-run`` its checkpointer starts the saving process itself; that is what is measured. The files are made by
``torch.save`` and not flushed, so we flush them.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint_systems.interface import COMPLETE, RAM, SHARED, files_under, fill, flush

if TYPE_CHECKING:
    from checkpoint_systems.interface import System, Tensors

_PACKAGE = "dlrover.trainer.torch.flash_checkpoint"


class Flash:
    """Its checkpointer for a state dictionary that is not sharded.

    Raises:
        RuntimeError: a save was skipped.
    """

    levels, tiers, flushes, is_async = (RAM, COMPLETE), (RAM, SHARED), False, True

    def __init__(self, place: Path) -> None:
        os.environ.setdefault("TORCHELASTIC_RUN_ID", f"benchmark-{os.getpid()}")  # its shared memory is named after this
        storage = importlib.import_module("dlrover.python.common.storage")
        logging.disable(logging.INFO)
        self._disk = importlib.import_module(f"{_PACKAGE}.checkpointer").StorageType.DISK
        self._place, self._step = place, 0
        keep = storage.KeepLatestStepStrategy(1, str(place))
        self._checkpointer = importlib.import_module(f"{_PACKAGE}.ddp").DdpCheckpointer(str(place), deletion_strategy=keep)

    def save(self, step: int, tensors: Tensors) -> None:
        self._step = step
        self._checkpointer.save_checkpoint(step, dict(tensors), storage_type=self._disk)
        if self._checkpointer._engine._cached_step != step:
            raise RuntimeError(f"dlrover skipped step {step}")

    def reached(self, level: str) -> bool:
        if level == RAM:
            return True
        with contextlib.suppress(OSError, ValueError):
            return int((self._place / "dlrover_latest.txt").read_text()) == self._step
        return False

    def make_durable(self) -> None:
        flush(self.files(), self._place)

    def forget_older(self) -> None:
        """Its deletion strategy does."""

    def files(self) -> list[Path]:
        return [*files_under(self._place / str(self._step)), self._place / "dlrover_latest.txt"]

    def restore(self, tier: str, targets: Tensors) -> None:
        engine = self._checkpointer._engine
        if tier == RAM:
            # What comes back are views of the shared memory: training needs them in its own tensors.
            fill(targets, self._checkpointer.load_checkpoint())
        else:
            fill(targets, engine._load_from_storage())

    def close(self) -> None:
        engine = self._checkpointer._engine
        with contextlib.suppress(Exception):  # whatever it is, the saving process goes next
            engine._shm_handler.unlink()
        if engine.saver_proc is not None:
            engine.saver_proc.terminate()
            engine.saver_proc.join(10)


def make(place: Path, tensors: Tensors, options: Mapping[str, Any]) -> System:  # noqa: ARG001 - the same for all
    """No options."""
    return Flash(place)
