"""Boxes of named tensors, and which bytes of which box fill which (pure).

A tensor is stored as *shards*: boxes of it that do not overlap and together cover it. The elements of a box lie in row-major
order, without gaps. Whoever restores wants boxes too, other ones where the number of ranks or the layout changed;
:func:`fill_plan` says what to copy from where.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

Extent = tuple[int, ...]
"""One number per dimension."""

PIECE_BYTES = 64 * 1024 * 1024
"""Largest piece that is written and hashed as one. Who needs one byte of a piece reads all of it, to verify it."""

DTYPE_BYTES = {
    "bool": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "uint64": 8, "int64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
}
"""Bytes of one element, by the name of the data type without its ``torch.`` prefix."""


def dtype_bytes(dtype: str) -> int:
    """Bytes of one element.

    Raises:
        ValueError: a data type that has no plain bytes (quantised ones), or that we do not know.
    """
    try:
        return DTYPE_BYTES[dtype]
    except KeyError:
        raise ValueError(f"data type {dtype} cannot be stored") from None


@dataclass(frozen=True, slots=True)
class Shard:
    """A box of a tensor.

    Attributes:
        name: of the tensor.
        dtype: without the ``torch.`` prefix.
        global_shape: of the whole tensor; () for a 0-dim one.
        offsets: first element of the box, per dimension.
        shape: of the box.
    """

    name: str
    dtype: str
    global_shape: Extent
    offsets: Extent
    shape: Extent

    def __post_init__(self) -> None:
        if not len(self.global_shape) == len(self.offsets) == len(self.shape):
            raise ValueError(f"{self.name}: a box {self.shape} at {self.offsets} of a tensor {self.global_shape}")
        for size, first, count in zip(self.global_shape, self.offsets, self.shape, strict=True):
            if first < 0 or count < 0 or first + count > size:
                raise ValueError(f"{self.name}: box {self.shape} at {self.offsets} is not inside {self.global_shape}")

    @classmethod
    def whole(cls, name: str, dtype: str, shape: Iterable[int]) -> Shard:
        """The box that is the entire tensor."""
        extent = tuple(shape)
        return cls(name, dtype, extent, (0,) * len(extent), extent)

    @property
    def numel(self) -> int:
        """Elements in the box."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the box.

        Raises:
            ValueError: see :func:`dtype_bytes`.
        """
        return self.numel * dtype_bytes(self.dtype)

    @property
    def is_whole(self) -> bool:
        """The box is the entire tensor."""
        return self.shape == self.global_shape


@dataclass(frozen=True, slots=True)
class StoredShard:
    """Where the bytes of a box lie.

    Attributes:
        file: relative to the checkpoint's directory (or the arena's name, in memory).
        offset_bytes: of the first raw byte in that file.
        size_bytes: of the raw bytes; ``shard.nbytes``.
        xxh3: XXH3 with 128 bits of the raw bytes, as hexadecimal text.
    """

    shard: Shard
    file: str
    offset_bytes: int
    size_bytes: int
    xxh3: str

    def renamed(self, name: str) -> StoredShard:
        """The same bytes as part of another tensor: tied weights are stored once."""
        return replace(self, shard=replace(self.shard, name=name))


@dataclass(frozen=True, slots=True)
class Copy:
    """One box to copy.

    Attributes:
        source: holds it.
        source_start: its first element, relative to the source's box.
        target_start: its first element, relative to the wanted box.
        shape: of what is copied.
    """

    source: StoredShard
    source_start: Extent
    target_start: Extent
    shape: Extent


def overlap(first: Shard, second: Shard) -> tuple[Extent, Extent] | None:
    """Offsets (in the tensor) and shape of what two boxes of one tensor share; None when that is nothing."""
    starts = tuple(max(a, b) for a, b in zip(first.offsets, second.offsets, strict=True))
    ends = (min(a + m, b + n) for a, m, b, n in zip(first.offsets, first.shape, second.offsets, second.shape, strict=True))
    shape = tuple(end - start for start, end in zip(starts, ends, strict=True))
    return (starts, shape) if all(count > 0 for count in shape) else None


def fill_plan(wanted: Shard, stored: Iterable[StoredShard]) -> list[Copy]:
    """What to copy from where so that every element of the wanted box is written exactly once.

    Args:
        stored: shards of the same tensor, which must not overlap (see :func:`check_cover`).

    Raises:
        ValueError: of another data type or shape, or a part of the box is stored nowhere.
    """
    copies, missing = [], wanted.numel
    stored = tuple(stored)
    if len(stored) == 1 and stored[0].shard == wanted:  # as most are
        return [Copy(stored[0], (0,) * len(wanted.shape), (0,) * len(wanted.shape), wanted.shape)] if missing else []
    for source in stored:
        shard = source.shard
        if (shard.dtype, shard.global_shape) != (wanted.dtype, wanted.global_shape):
            raise ValueError(f"{wanted.name} is stored as {shard.dtype} {shard.global_shape}, "
                             f"not as {wanted.dtype} {wanted.global_shape}")
        common = overlap(wanted, shard)
        if common is None:
            continue
        starts, shape = common
        copies.append(Copy(source, _minus(starts, shard.offsets), _minus(starts, wanted.offsets), shape))
        missing -= math.prod(shape)
    if missing:
        raise ValueError(f"{wanted.name}: {missing} of {wanted.numel} elements at {wanted.offsets} are not stored")
    return copies


def byte_runs(copy: Copy, target_shape: Extent) -> Iterator[tuple[int, int, int]]:
    """The copy as (first byte in the source's box, first byte in the wanted box, bytes), longest runs possible."""
    size = dtype_bytes(copy.source.shard.dtype)
    from_strides, to_strides = strides(copy.source.shard.shape), strides(target_shape)
    run_dims = _contiguous_dims(copy.shape, copy.source.shard.shape, target_shape)
    outer = copy.shape[: len(copy.shape) - run_dims]
    length = math.prod(copy.shape[len(outer):]) * size
    first = (_dot(copy.source_start, from_strides), _dot(copy.target_start, to_strides))
    for index in _indices(outer):
        yield (size * (first[0] + _dot(index, from_strides)), size * (first[1] + _dot(index, to_strides)), length)


def check_cover(shards: Sequence[Shard]) -> None:
    """Make sure that boxes of one tensor do not overlap and together cover it.

    Raises:
        ValueError: they do not, or they disagree about the tensor; the message names it.
    """
    if not shards:
        raise ValueError("a tensor is not stored at all")
    first = shards[0]
    if len(shards) == 1 and first.is_whole:
        return
    for shard in shards:
        if (shard.name, shard.dtype, shard.global_shape) != (first.name, first.dtype, first.global_shape):
            raise ValueError(f"{first.name} is {first.dtype} {first.global_shape} in one shard and "
                             f"{shard.dtype} {shard.global_shape} in another")
    pair = _overlapping([shard for shard in shards if shard.numel])
    if pair:
        raise ValueError(f"{first.name}: the boxes at {pair[0].offsets} and {pair[1].offsets} overlap")
    missing = math.prod(first.global_shape) - sum(shard.numel for shard in shards)
    if missing:
        raise ValueError(f"{first.name}: {missing} of {math.prod(first.global_shape)} elements are not stored")


def pieces(shard: Shard, limit_bytes: int = PIECE_BYTES) -> list[Shard]:
    """Cut a box into boxes of at most ``limit_bytes`` that follow each other in its bytes.

    Each piece is a run of the box's row-major bytes, so no element has to be moved to write it. One element is never cut.
    """
    if shard.nbytes <= limit_bytes or shard.numel == 1:
        return [shard]
    axis = next(axis for axis, count in enumerate(shard.shape) if count > 1)
    row_bytes = shard.nbytes // shard.shape[axis]
    rows = max(1, limit_bytes // row_bytes)
    found = []
    for start in range(0, shard.shape[axis], rows):
        part = replace(shard, offsets=_put(shard.offsets, axis, shard.offsets[axis] + start),
                       shape=_put(shard.shape, axis, min(rows, shard.shape[axis] - start)))
        found.extend(pieces(part, limit_bytes))
    return found


def start_in(outer: Shard, piece: Shard) -> int:
    """First byte of a piece (see :func:`pieces`) in the bytes of the box that it was cut from."""
    return _dot(_minus(piece.offsets, outer.offsets), strides(outer.shape)) * dtype_bytes(piece.dtype)


def with_aliases(stored: Iterable[StoredShard], aliases: Mapping[str, str]) -> list[StoredShard]:
    """Stored shards, and the same bytes once more under the name of each tensor that shares them."""
    others: dict[str, list[str]] = {}
    for name, first in aliases.items():
        others.setdefault(first, []).append(name)
    return [entry for item in stored
            for entry in (item, *(item.renamed(name) for name in others.get(item.shard.name, ())))]


def strides(shape: Extent) -> Extent:
    """Elements from one index to the next, per dimension, in row-major order."""
    found, step = [], 1
    for count in reversed(shape):
        found.append(step)
        step *= max(count, 1)
    return tuple(reversed(found))


def _overlapping(shards: Sequence[Shard]) -> tuple[Shard, Shard] | None:
    """Sweep along the dimension that separates best, so that thousands of shards need no comparison of all pairs."""
    if len(shards) < 2:
        return None
    dims = range(len(shards[0].shape))
    axis = max(dims, key=lambda dim: len({shard.offsets[dim] for shard in shards}), default=None)
    if axis is None:
        return shards[0], shards[1]  # two copies of a 0-dim tensor
    active: list[Shard] = []
    for shard in sorted(shards, key=lambda shard: shard.offsets[axis]):
        active = [other for other in active if other.offsets[axis] + other.shape[axis] > shard.offsets[axis]]
        for other in active:
            if overlap(other, shard) is not None:
                return other, shard
        active.append(shard)
    return None


def _contiguous_dims(shape: Extent, source: Extent, target: Extent) -> int:
    """How many of the last dimensions form one run of bytes in both boxes."""
    count = 0
    for dim in reversed(range(len(shape))):
        count += 1
        if not shape[dim] == source[dim] == target[dim]:
            break
    return count


def _indices(shape: Extent) -> Iterator[Extent]:
    if not shape:
        yield ()
        return
    for first in range(shape[0]):
        for rest in _indices(shape[1:]):
            yield (first, *rest)


def _dot(index: Extent, steps: Extent) -> int:
    return sum(a * b for a, b in zip(index, steps))  # noqa: B905 - an index of the outer dimensions only is meant, too


def _minus(first: Extent, second: Extent) -> Extent:
    return tuple(a - b for a, b in zip(first, second, strict=True))


def _put(extent: Extent, axis: int, value: int) -> Extent:
    return (*extent[:axis], value, *extent[axis + 1:])
