"""What every checkpointing system is asked to do (pure, but for the two helpers that flush and forget files)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

RAM, PEER, LOCAL, SHARED = "ram", "peer", "local", "shared"
COMPLETE = "complete"
"""The system itself calls the files finished; whether they are flushed is another question."""


class System(Protocol):
    """One way to save and to load, made by ``make(place, tensors, options)`` of its module.

    Levels of safety are ``ram`` (outlives a SIGKILL of the trainer), ``peer`` (outlives the node) and ``complete``.
    """

    @property
    def levels(self) -> tuple[str, ...]:
        """What :meth:`reached` can answer."""

    @property
    def tiers(self) -> tuple[str, ...]:
        """Where :meth:`restore` can load from."""

    @property
    def flushes(self) -> bool:
        """The system itself flushes before it calls a checkpoint complete."""

    @property
    def is_async(self) -> bool:
        """Training goes on before the checkpoint is complete."""

    def save(self, step: int, tensors: Tensors) -> None:
        """Return when training may change the tensors; the state of the step before is not in work any more."""

    def reached(self, level: str) -> bool:
        """Whether the newest save is that safe; called often, from another thread."""

    def make_durable(self) -> None:
        """Flush what the system has not, and make it visible; called once a save is complete."""

    def forget_older(self) -> None:
        """Remove older checkpoints; outside every measured time."""

    def files(self) -> list[Path]:
        """Of the newest checkpoint."""

    def restore(self, tier: str, targets: Tensors) -> None:
        """Fill the targets with the newest checkpoint, from this tier and no other."""

    def close(self) -> None:
        """End everything that was started."""


def flush(files: Iterable[Path], top: Path) -> None:
    """Fsync files, and ``top`` with all directories between."""
    folders = {top}
    for file in files:
        _fsync(file)
        folders.update(folder for folder in file.parents if folder == top or top in folder.parents)
    for folder in sorted(folders, reverse=True):
        _fsync(folder)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def drop_from_memory(files: Iterable[Path]) -> None:
    """Ask the kernel to forget the pages of flushed files."""
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        with contextlib.suppress(OSError):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def files_under(folder: Path) -> list[Path]:
    """All regular files."""
    return [path for path in folder.rglob("*") if path.is_file()]


def fill(targets: Tensors, loaded: Mapping[str, Any]) -> None:
    """Copy what was loaded into the tensors that are there.

    Raises:
        KeyError: one is missing.
    """
    for name, target in targets.items():
        target.copy_(loaded[name])
