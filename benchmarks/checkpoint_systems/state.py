"""The state that is saved, and the training step that changes it (adapter over torch)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import xxhash

if TYPE_CHECKING:
    from checkpoint_systems.interface import Tensors

LARGE, SMALL = 10, 300
_WIDTH = 1024
_PRODUCTS = 3


def make_state(size_bytes: int, seed: int) -> Tensors:
    """Ten large float32 tensors with nine tenths of the bytes, and 300 small ones."""
    chance = torch.Generator().manual_seed(seed)
    large, small = size_bytes * 9 // 10 // LARGE // 4, size_bytes // 10 // SMALL // 4
    rows = max(large // _WIDTH, 1)
    state = {f"large.{number}.weight": torch.randn(rows, _WIDTH, generator=chance) for number in range(LARGE)}
    return state | {f"small.{number}.bias": torch.randn(max(small, 1), generator=chance) for number in range(SMALL)}


class Training:
    """Steps that compute a little and then change every element, as an optimizer does, with all of torch's threads.

    Args:
        state: changed in place.
        width: of the matrices that are multiplied.
    """

    def __init__(self, state: Tensors, width: int) -> None:
        self._tensors = list(state.values())
        self._matrix = torch.eye(width) * 0.5

    def step(self) -> None:
        """One."""
        for _ in range(_PRODUCTS):
            self._matrix = self._matrix @ self._matrix + 0.25
            self._matrix /= self._matrix.norm()
        torch._foreach_mul_(self._tensors, 1.0001)


def digests(tensors: Tensors) -> dict[str, str]:
    """What is the same only if every bit is."""
    return {name: xxhash.xxh3_128_hexdigest(value.numpy().data) for name, value in tensors.items()}
