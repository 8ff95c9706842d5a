"""Tensors into shared memory, as fast as memory goes (adapter over ``torch``).

Memory that is mapped and touched already is written at the machine's memcpy rate, by as many threads as torch may use. On a
GPU the memory is registered with the driver once, and copied to on a stream of its own.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from typing import Any

import torch

from hpctrain.checkpoint import memory_copy
from hpctrain.checkpoint.memory_copy import Move
from hpctrain.checkpoint.shards import Shard

_FAST = {"float64", "float32", "bfloat16", "float16", "int64", "int32"}
_THREADS = 8
"""More do not copy faster."""


class ArenaBlock:
    """One mapped block, with the places of the shards in it as tensors.

    Args:
        mapping: writable.
    """

    def __init__(self, mapping: mmap.mmap) -> None:
        self._bytes = torch.frombuffer(mapping, dtype=torch.uint8)
        self._mapping = mapping
        self._shards: Sequence[Shard] = ()
        self._offsets: tuple[int, ...] = ()
        self._targets: list[torch.Tensor] = []
        self._typed: list[torch.Tensor | None] = []
        self._places: list[tuple[int, int]] = []  # address and bytes
        self._stream: Any = None
        self._registered = False

    def write(self, offset: int, data: bytes) -> None:
        """Put plain bytes in."""
        self._mapping[offset:offset + len(data)] = data

    def copy_in(self, shards: Sequence[Shard], offsets: tuple[int, ...], tensors: Sequence[torch.Tensor]) -> None:
        """Copy each tensor to its place; all bytes are there when this returns.

        Pass the same ``shards`` object again to save the time of finding the places.

        Raises:
            ValueError: a tensor does not fit its shard.
        """
        if shards is not self._shards or offsets != self._offsets:
            self._shards, self._offsets = shards, offsets
            self._targets = [
                self._bytes[offset:offset + shard.nbytes] for shard, offset in zip(shards, offsets, strict=True)
            ]
            base = self._bytes.data_ptr()
            self._places = [(base + offset, shard.nbytes) for shard, offset in zip(shards, offsets, strict=True)]
            self._typed = [_typed(shard, target) for shard, target in zip(shards, self._targets, strict=True)]
        with torch.no_grad():
            if any(tensor.is_cuda for tensor in tensors):
                self._copy_from_gpu(shards, tensors)
            else:
                self._copy_plain(shards, tensors)

    def _copy_plain(self, shards: Sequence[Shard], tensors: Sequence[torch.Tensor]) -> None:
        """From the CPU: bytes as they lie, several threads at once; what does not lie so is left to torch."""
        moves: list[Move] = []
        others: list[int] = []
        for index, ((address, size_bytes), source) in enumerate(zip(self._places, tensors, strict=True)):
            if source.nbytes != size_bytes or not _lies_plain(source):
                others.append(index)
            elif size_bytes:
                moves.append((address, source.data_ptr(), size_bytes))
        memory_copy.move(moves, min(torch.get_num_threads(), _THREADS))
        for index in others:
            self._copy_one(shards[index], self._targets[index], tensors[index])

    def _copy_all(self, shards: Sequence[Shard], tensors: Sequence[torch.Tensor]) -> None:
        for shard, target, typed, source in zip(shards, self._targets, self._typed, tensors, strict=True):
            if typed is not None and source.dtype is typed.dtype and source.shape == typed.shape:
                typed.copy_(source, non_blocking=True)
            else:
                self._copy_one(shard, target, source)

    @staticmethod
    def _copy_one(shard: Shard, target: torch.Tensor, source: torch.Tensor) -> None:
        if source.numel() != shard.numel or source.numel() * source.element_size() != shard.nbytes:
            raise ValueError(f"{shard.name}: a tensor of {source.numel()} elements for a box of {shard.shape}")
        if source.numel():
            _copy(target, source)

    def _copy_from_gpu(self, shards: Sequence[Shard], tensors: Sequence[torch.Tensor]) -> None:
        self._register()
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call,unused-ignore]
        # The values are those after everything that was queued so far, such as the optimizer's step.
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._copy_all(shards, tensors)
        self._stream.synchronize()

    def _register(self) -> None:
        """Pin the memory, once: it costs about as much as filling it."""
        if self._registered:
            return
        self._registered = True  # one try: a refusal (RLIMIT_MEMLOCK) makes copies slower, not wrong
        _driver().cudaHostRegister(self._bytes.data_ptr(), self._bytes.numel(), 0)

    def close(self) -> None:
        """Give the memory back, to the driver first; nothing may be written any more."""
        if self._registered:
            _driver().cudaHostUnregister(self._bytes.data_ptr())
            self._registered = False
        # The mapping ends with the last tensor that looks at it.
        self._targets, self._typed, self._places, self._shards = [], [], [], ()
        self._bytes = torch.empty(0, dtype=torch.uint8)
        with contextlib.suppress(BufferError):
            self._mapping.close()


def tensor_of(view: memoryview, shard: Shard) -> torch.Tensor:
    """The tensor that lies in these bytes, not copied. It must not outlive the checkpoint that was opened."""
    dtype = getattr(torch, shard.dtype)
    if not shard.numel:
        return torch.empty(shard.shape, dtype=dtype)
    return torch.frombuffer(view, dtype=torch.uint8).view(dtype).reshape(shard.shape)


def _typed(shard: Shard, target: torch.Tensor) -> torch.Tensor | None:
    """The place as a flat tensor of the shard's type, where that copies at full speed: no view to make at every save."""
    if shard.dtype not in _FAST or not shard.numel:
        return None
    return target.view(getattr(torch, shard.dtype))


def _lies_plain(source: torch.Tensor) -> bool:
    """Its bytes in memory, one after the other, are its elements."""
    return source.is_cpu and source.is_contiguous() and not source.is_conj() and not source.is_neg()


def _driver() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call,unused-ignore]


def _copy(target: torch.Tensor, source: torch.Tensor) -> None:
    if source.is_conj() or source.is_neg() or not source.is_contiguous():
        target.view(source.dtype).view(source.shape).copy_(source, non_blocking=True)
        return
    # As the widest words possible, whatever the type: torch copies bytes at three quarters of the speed of words, and a
    # copy of words keeps every bit, also of numbers that are none.
    size = target.numel()
    word = torch.int64 if size % 8 == 0 else torch.int32 if size % 4 == 0 else torch.uint8
    flat = source.reshape(-1).view(torch.uint8)
    if source.data_ptr() % 8:
        word = torch.uint8
    target.view(word).copy_(flat.view(word), non_blocking=True)
