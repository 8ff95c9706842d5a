"""Which stored bytes go where in which tensor of this rank (adapter over ``torch``).

Reads the manifest's table and the bytes it points to, never a pickle. :mod:`hpctrain.checkpoint.restore_load` brings the
bytes for all ranks together; :func:`load_tensors` needs no other rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch

from hpctrain.checkpoint import restore_plan
from hpctrain.checkpoint.capture import locate
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.shard_reader import ShardReader
from hpctrain.checkpoint.shards import Copy, Shard, StoredShard, byte_runs, fill_plan

Table = Mapping[str, Sequence[StoredShard]]
Place = tuple[str, int]
Progress = Callable[[int, int], None]
"""Told bytes that are done, and of all."""


class Reader(Protocol):
    """Where the bytes come from: files, or an arena in memory."""

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Fill ``target``, or raise :class:`~hpctrain.checkpoint.shard_reader.DamagedError`."""


class FillPlan:
    """What this rank copies into which tensor.

    Args:
        targets: tensors to fill, in place: plain, sharded, on any device. A stored tensor of another type is converted.
        table: of the manifest.
        world_size: of the ranks that restore.

    Raises:
        ValueError: a tensor is stored nowhere, or in another shape.
    """

    def __init__(self, targets: Mapping[str, torch.Tensor], table: Table, world_size: int) -> None:
        self.stored = restore_plan.distinct(table)
        self._copies: dict[Place, list[tuple[Copy, torch.Tensor]]] = {}
        self._own: dict[Place, torch.Tensor | None] = {}
        for name, tensor in targets.items():
            if name not in table:
                raise ValueError(f"{name} is not in the checkpoint")
            box = locate(name, tensor, tuple(range(world_size)))
            if box is not None:
                self._want(box.shard, box.local, table[name])

    def _want(self, shard: Shard, local: torch.Tensor, stored: Sequence[StoredShard]) -> None:
        as_stored = Shard(shard.name, stored[0].shard.dtype, shard.global_shape, shard.offsets, shard.shape)
        for copy in fill_plan(as_stored, stored):
            self._copies.setdefault(place_of(copy.source), []).append((copy, local))

    @property
    def needs(self) -> list[int]:
        """Positions in :attr:`stored` of what this rank needs."""
        return [place for place, item in enumerate(self.stored) if place_of(item) in self._copies]

    def landing(self, stored: StoredShard) -> torch.Tensor:
        """Memory for the bytes of a piece: the target's own where they lie in it as they are stored, else a buffer."""
        own = self.in_place(stored)
        return own if own is not None else torch.empty(stored.size_bytes, dtype=torch.uint8)

    def in_place(self, stored: StoredShard) -> torch.Tensor | None:
        """The bytes of the target that are those of a piece, if they lie in it as they are stored."""
        place = place_of(stored)
        if place not in self._own:  # asked twice per piece, and most pieces are small
            copies = self._copies.get(place, [])
            self._own[place] = _in_place(*copies[0]) if len(copies) == 1 else None
        return self._own[place]

    def deliver(self, stored: StoredShard, data: torch.Tensor) -> None:
        """Copy the bytes of a piece to where they belong."""
        if self.in_place(stored) is data:
            return
        for copy, local in self._copies[place_of(stored)]:
            own = _in_place(copy, local)
            if own is None or own.data_ptr() != data.data_ptr():
                source = data.view(getattr(torch, copy.source.shard.dtype)).reshape(copy.source.shard.shape)
                _narrow(local, copy.target_start, copy.shape).copy_(_narrow(source, copy.source_start, copy.shape))


def load_tensors(source: Path | Reader, manifest: Manifest, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
    """Whole tensors on the CPU, verified, in one process without a process group.

    Args:
        source: directory of the checkpoint, or what reads its shards; that stays open.
        manifest: as :meth:`hpctrain.checkpoint.tier_shared.SharedTier.open` returns it.
        names: which tensors; None for all.

    Raises:
        ValueError: there is no tensor of that name.
        DamagedError: the stored bytes are not those that were committed.
    """
    table = manifest.table()
    found: dict[str, torch.Tensor] = {}
    for name in table if names is None else names:
        if name not in table:
            raise ValueError(f"{name} is not in the checkpoint")
        shard = table[name][0].shard
        found[name] = torch.empty(shard.global_shape, dtype=getattr(torch, shard.dtype))
    own: ShardReader | None = None
    if isinstance(source, Path):
        source = own = ShardReader(source)
    try:
        plan = FillPlan(found, table, 1)
        for place in plan.needs:
            stored = plan.stored[place]
            data = plan.landing(stored)
            source.read_into(stored, memory_of(data))
            plan.deliver(stored, data)
    finally:
        if own is not None:
            own.close()
    return found


def place_of(stored: StoredShard) -> Place:
    """What tells a run of bytes from all others of a checkpoint."""
    return stored.file, stored.offset_bytes


def memory_of(data: torch.Tensor) -> memoryview:
    """The bytes of a flat tensor on the CPU."""
    values: Any = data.numpy()
    return memoryview(values)


def _in_place(copy: Copy, local: torch.Tensor) -> torch.Tensor | None:
    """The target's own bytes, if the whole piece lies in them as it is stored."""
    shard = copy.source.shard
    if local.device.type != "cpu" or str(local.dtype) != f"torch.{shard.dtype}" or not local.is_contiguous():
        return None
    if copy.shape != shard.shape or local.is_conj() or local.is_neg():
        return None
    flat: Any = local.reshape(-1).view(torch.uint8)
    if shard.shape == tuple(local.shape):
        return torch.as_tensor(flat)
    runs = list(islice(byte_runs(copy, tuple(local.shape)), 2))
    if len(runs) != 1:
        return None
    _, start, count = runs[0]
    return torch.as_tensor(flat[start:start + count])


def _narrow(tensor: torch.Tensor, start: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    for dim, (first, count) in enumerate(zip(start, shape, strict=True)):
        tensor = tensor.narrow(dim, first, count)
    return tensor
