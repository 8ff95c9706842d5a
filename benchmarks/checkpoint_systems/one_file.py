"""``torch.save`` and ``safetensors``: one file, written beside the old one (adapter over both libraries)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch

from checkpoint_systems.interface import COMPLETE, SHARED, fill, flush

if TYPE_CHECKING:
    from checkpoint_systems.interface import System, Tensors


class OneFile:
    """Write; then, to be durable: flush, rename, flush the directory."""

    levels, tiers, flushes, is_async = (COMPLETE,), (SHARED,), False, False

    def __init__(self, path: Path, write: Callable[[Tensors, Path], Any], read: Callable[[Path], Mapping[str, Any]]) -> None:
        self._path, self._draft, self._write, self._read = path, path.with_suffix(".new"), write, read

    def save(self, step: int, tensors: Tensors) -> None:  # noqa: ARG002 - the file is replaced, whatever the step
        self._write(tensors, self._draft)

    def reached(self, level: str) -> bool:
        return level == COMPLETE

    def make_durable(self) -> None:
        flush([self._draft], self._path.parent)
        self._draft.replace(self._path)
        flush([], self._path.parent)

    def forget_older(self) -> None:
        """The rename has."""

    def files(self) -> list[Path]:
        return [self._path]

    def restore(self, tier: str, targets: Tensors) -> None:  # noqa: ARG002 - there is only one
        fill(targets, self._read(self._path))

    def close(self) -> None:
        """Nothing was started."""


def make(place: Path, tensors: Tensors, options: Mapping[str, Any]) -> System:  # noqa: ARG001 - the same for all
    """``format``: ``torch`` or ``safetensors``."""
    if options["format"] == "torch":
        return OneFile(place / "state.pt", torch.save, lambda path: torch.load(path, weights_only=True))
    return OneFile(place / "state.safetensors", safetensors.torch.save_file, safetensors.torch.load_file)
