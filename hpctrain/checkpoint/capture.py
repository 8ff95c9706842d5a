"""Which boxes of the registered tensors this rank writes (adapter over ``torch``).

No collective: every rank finds by itself, from meshes and rank numbers, which of the replicas of a box writes it. So each
byte is written once, and replicated tensors are spread over the ranks that hold them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from hpctrain.checkpoint.shards import PIECE_BYTES, Shard, dtype_bytes, pieces, start_in


@dataclass(frozen=True, slots=True)
class Box:
    """A rank's part of one tensor.

    Attributes:
        shard: where it lies in the whole tensor.
        local: its elements, sharing memory with the tensor; it may be on a GPU, and not contiguous.
        holders: ranks that hold the same box, in order.
    """

    shard: Shard
    local: torch.Tensor
    holders: tuple[int, ...]


@dataclass(frozen=True)
class Capture:
    """What one rank writes.

    Attributes:
        pieces: boxes of at most :data:`~hpctrain.checkpoint.shards.PIECE_BYTES`, each with a flat, contiguous tensor of
            its elements. They share memory with the training's tensors where those are contiguous.
        aliases: tensors that are the same memory as another one (tied weights), and that one's name. Same on all holders.
        replicated: name, type and shape of every tensor that all ranks must hold alike.
    """

    pieces: list[tuple[Shard, torch.Tensor]] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    replicated: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=list)

    @property
    def size_bytes(self) -> int:
        """Of all pieces."""
        return sum(shard.nbytes for shard, _ in self.pieces)

    def buffers(self) -> Iterator[tuple[Shard, memoryview]]:
        """Every piece with its bytes, brought from the GPU one at a time."""
        return ((shard, raw_bytes(tensor)) for shard, tensor in self.pieces)

    @cached_property
    def fingerprint(self) -> str:
        """Stands for :attr:`replicated`: ranks that differ do not hold one state."""
        return hashlib.sha256(repr(self.replicated).encode()).hexdigest()

    def but_with(self, pieces: list[tuple[Shard, torch.Tensor]]) -> Capture:
        """The same with other tensors."""
        found = replace(self, pieces=pieces)
        vars(found)["fingerprint"] = self.fingerprint
        return found


class Captures:
    """Captures the state of one rank again and again: as long as its tensors lie where they lay, nothing is worked out anew.

    Holds on to no tensor between two calls.

    Args:
        limit_bytes: of a piece.
    """

    def __init__(self, limit_bytes: int = PIECE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._key: Any = None
        self._shards: list[tuple[Shard, int]] = []
        self._like = Capture()

    def __call__(self, tensors: Mapping[str, torch.Tensor], rank: int, world_size: int) -> Capture:
        """See :func:`capture`."""
        local = {name: _local(tensor) for name, tensor in tensors.items()}
        key = (rank, world_size, [_identity(name, tensor, local[name]) for name, tensor in tensors.items()])
        if key == self._key:
            return self._like.but_with(_again(self._shards, local))
        self._key = None
        found = capture(tensors, rank, world_size, self._limit_bytes)
        if all(map(_is_plain, local.values())):  # what must be brought into order first is no run of its elements
            self._shards = [(shard, _first(piece, local[shard.name])) for shard, piece in found.pieces]
            self._like, self._key = found.but_with([]), key
        return found


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _identity(name: str, tensor: torch.Tensor, local: torch.Tensor) -> tuple[Any, ...]:
    """All that :func:`capture` looks at: tensors of which it is the same are captured alike."""
    where = (tensor.shape, tensor.device_mesh, tensor.placements) if isinstance(tensor, DTensor) else ()
    return (name, local.data_ptr(), local.dtype, local.shape, local.stride(), local.device, local.layout, local.is_conj(),
            local.is_neg(), where)


def _is_plain(local: torch.Tensor) -> bool:
    return local.layout == torch.strided and local.is_contiguous() and not local.is_conj() and not local.is_neg()


def _again(shards: Sequence[tuple[Shard, int]], local: Mapping[str, torch.Tensor]) -> list[tuple[Shard, torch.Tensor]]:
    flat = {shard.name: local[shard.name].reshape(-1) for shard, _ in shards}
    return [(shard, flat[shard.name] if first < 0 else flat[shard.name][first:first + shard.numel])
            for shard, first in shards]


def _first(piece: torch.Tensor, local: torch.Tensor) -> int:
    """Where a piece begins in a rank's local elements; -1 when it is all of them."""
    if piece.numel() == local.numel():
        return -1
    return (piece.data_ptr() - local.data_ptr()) // local.element_size()


def capture(tensors: Mapping[str, torch.Tensor], rank: int, world_size: int, limit_bytes: int = PIECE_BYTES) -> Capture:
    """This rank's share of a state; call it with the same names on every rank.

    Args:
        tensors: plain ones count as identical on all ranks; DTensors are shared out over their mesh.

    Raises:
        ValueError: a tensor that has no plain bytes (sparse, quantised), or a DTensor with pending sums.
    """
    everyone = tuple(range(world_size))
    result, seen = Capture(), {}  # type: Capture, dict[Any, str]
    by_holders: dict[tuple[int, ...], list[tuple[Shard, Box]]] = {}
    for name, tensor in sorted(tensors.items()):
        box = locate(name, tensor, everyone)
        if box is None:
            continue
        if not isinstance(tensor, DTensor):
            result.replicated.append((name, box.shard.dtype, box.shard.global_shape))
        first = seen.setdefault(_memory(box), name) if box.shard.numel else name
        if first != name:
            result.aliases[name] = first
            continue
        by_holders.setdefault(box.holders, []).extend((piece, box) for piece in pieces(box.shard, limit_bytes))
    for holders, found in by_holders.items():
        mine = _share([piece for piece, _ in found], len(holders), holders.index(rank))
        result.pieces.extend((found[place][0], _elements(*found[place])) for place in mine)
    result.pieces.sort(key=lambda item: (item[0].name, item[0].offsets))
    return result


def locate(name: str, tensor: torch.Tensor, everyone: tuple[int, ...]) -> Box | None:
    """This rank's part of a tensor; None when it holds nothing of it.

    Raises:
        ValueError: see :func:`capture`.
    """
    if not isinstance(tensor, DTensor):
        plain = _plain(name, tensor.detach())
        return Box(Shard.whole(name, dtype_name(plain), plain.shape), plain, everyone)
    coordinate = tensor.device_mesh.get_coordinate()
    if coordinate is None:
        return None
    local = _plain(name, tensor.to_local().detach())
    dtype, shape = dtype_name(local), tuple(tensor.shape)
    if tensor.numel() == 0:
        return Box(Shard.whole(name, dtype, shape), local, _ranks(tensor, ()))
    try:
        ask: Any = tensor.__create_chunk_list__  # DCP's own question to a tensor
        chunks = ask()
    except RuntimeError as error:
        raise ValueError(f"{name}: {error}") from None
    if local.numel() == 0:
        return None
    shard = Shard(name, dtype, shape, tuple(chunks[0].offsets), tuple(chunks[0].sizes))
    if len(chunks) != 1 or shard.shape != tuple(local.shape):
        raise ValueError(f"{name}: this rank's part {tuple(local.shape)} of {shape} is not one box, but {tensor.placements}")
    return Box(shard, local, _ranks(tensor, tuple(coordinate)))


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor; without copying them if it is on the CPU."""
    flat = tensor.detach().cpu().reshape(-1)
    if not flat.numel():
        return memoryview(b"")
    array: Any = flat.view(torch.uint8).numpy()
    return memoryview(array)


def dtype_name(tensor: torch.Tensor) -> str:
    """Name of the data type, without ``torch.``."""
    return str(tensor.dtype).removeprefix("torch.")


def _plain(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise ValueError(f"{name} ({tensor.layout}, {tensor.dtype}, on {tensor.device}) has no plain bytes to save")
    dtype_bytes(dtype_name(tensor))
    return tensor


def _ranks(tensor: DTensor, coordinate: tuple[int, ...]) -> tuple[int, ...]:
    """Ranks with the same box: those that differ only where the tensor is replicated. All of the mesh for ()."""
    mesh = tensor.device_mesh.mesh
    if not coordinate:
        return tuple(int(rank) for rank in mesh.flatten().tolist())
    index = tuple(slice(None) if placement.is_replicate() else place
                  for placement, place in zip(tensor.placements, coordinate, strict=True))
    return tuple(int(rank) for rank in mesh[index].flatten().tolist())


def _memory(box: Box) -> Any:
    local = box.local
    return (local.device, local.data_ptr(), local.stride(), box.shard.dtype, box.shard.global_shape, box.shard.offsets,
            box.shard.shape, box.holders)


def _share(found: list[Shard], holders: int, position: int) -> list[int]:
    """Which of the pieces the holder at ``position`` writes: the largest first, each to who has least so far."""
    loads, mine = [0] * holders, []
    for place in sorted(range(len(found)), key=lambda at: (-found[at].nbytes, found[at].name, found[at].offsets)):
        least = loads.index(min(loads))
        # An entry costs a little even when its tensor is tiny.
        loads[least] += found[place].nbytes + 1024
        if least == position:
            mine.append(place)
    return mine


def _elements(piece: Shard, box: Box) -> torch.Tensor:
    flat = box.local.resolve_conj().resolve_neg().contiguous().reshape(-1)
    start = start_in(box.shard, piece) // dtype_bytes(piece.dtype)
    return flat[start:start + piece.numel]
