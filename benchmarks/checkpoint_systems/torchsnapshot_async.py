"""``torchsnapshot.Snapshot.async_take`` (adapter over torchsnapshot, which has no types)."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from checkpoint_systems.interface import COMPLETE, SHARED, files_under, flush

if TYPE_CHECKING:
    from checkpoint_systems.interface import System, Tensors


class TorchSnapshot:
    """A new directory for every save; it does not flush, so we do."""

    levels, tiers, flushes, is_async = (COMPLETE,), (SHARED,), False, True

    def __init__(self, place: Path) -> None:
        self._library: Any = importlib.import_module("torchsnapshot")
        self._place, self._number, self._pending = place, 0, None

    @property
    def _folder(self) -> Path:
        return self._place / str(self._number)

    def save(self, step: int, tensors: Tensors) -> None:  # noqa: ARG002 - we count
        self._number += 1
        state = {"state": self._library.StateDict(**tensors)}
        self._pending = self._library.Snapshot.async_take(str(self._folder), state)

    def reached(self, level: str) -> bool:
        pending: Any = self._pending
        if level != COMPLETE or not pending.done():
            return False
        pending.wait()  # a failure is raised here
        return True

    def make_durable(self) -> None:
        flush(self.files(), self._place)

    def forget_older(self) -> None:
        for path in self._place.iterdir():
            if path != self._folder:
                shutil.rmtree(path)

    def files(self) -> list[Path]:
        return files_under(self._folder)

    def restore(self, tier: str, targets: Tensors) -> None:  # noqa: ARG002 - there is only one
        # It fills the tensors in place.
        self._library.Snapshot(str(self._folder)).restore({"state": self._library.StateDict(**targets)})

    def close(self) -> None:
        """Its threads end with the save."""


def make(place: Path, tensors: Tensors, options: Mapping[str, Any]) -> System:  # noqa: ARG001 - the same for all
    """No options."""
    return TorchSnapshot(place)
