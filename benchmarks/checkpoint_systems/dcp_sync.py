"""``torch.distributed.checkpoint.save`` and ``load`` (adapter over PyTorch)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from checkpoint_systems.interface import COMPLETE, SHARED, files_under, flush

if TYPE_CHECKING:
    from checkpoint_systems.interface import System, Tensors


class Dcp:
    """A new directory for every save. It flushes its files, unless told not to; we flush the directories.

    Args:
        threads: that write.
        sync_files: DCP's own option.
    """

    levels, tiers, is_async = (COMPLETE,), (SHARED,), False

    def __init__(self, place: Path, *, threads: int = 1, sync_files: bool = True) -> None:
        self.place, self.flushes = place, sync_files
        self._threads, self._number = threads, 0

    def next_writer(self) -> FileSystemWriter:
        """For the next directory."""
        self._number += 1
        return FileSystemWriter(self.folder, thread_count=self._threads, sync_files=self.flushes)

    @property
    def folder(self) -> Path:
        """Of the newest."""
        return self.place / str(self._number)

    def save(self, step: int, tensors: Tensors) -> None:  # noqa: ARG002 - we count
        save(dict(tensors), storage_writer=self.next_writer())

    def reached(self, level: str) -> bool:
        return level == COMPLETE

    def make_durable(self) -> None:
        if self.flushes:
            flush([], self.place)

    def forget_older(self) -> None:
        for path in self.place.iterdir():
            if path != self.folder:
                shutil.rmtree(path)

    def files(self) -> list[Path]:
        return files_under(self.folder)

    def restore(self, tier: str, targets: Tensors) -> None:  # noqa: ARG002 - there is only one
        load(dict(targets), checkpoint_id=self.folder)

    def close(self) -> None:
        """Nothing was started."""


def make(place: Path, tensors: Tensors, options: Mapping[str, Any]) -> System:  # noqa: ARG001 - the same for all
    """``threads`` and ``sync_files``."""
    return Dcp(place, threads=options["threads"], sync_files=options["sync_files"])
