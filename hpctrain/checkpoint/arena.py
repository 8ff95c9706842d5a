"""How one checkpoint of one rank lies in a block of memory (pure).

::

    0        header: 4 KiB, written by the keeper only; zeros while the block is being filled
    4096     meta: JSON, what the shards are and the rank's own state
    ...      seal: 16 bytes of XXH3 per shard, written by the keeper after the commit
    ...      data: the raw bytes of the shards, each at a multiple of 64

The header is the commit record in memory. It is cleared before a writer may touch the block, and set after the writer has
said that everything is there. So a block with a valid header is whole, whatever happened to its writer.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint.shards import Shard

ALIGNMENT_BYTES = 64
PAGE_BYTES = 4096
HEADER_BYTES = PAGE_BYTES
DIGEST_BYTES = 16
ROUND_BYTES = 2 * 1024 * 1024
"""Sizes of blocks are rounded up to this, so that a few bytes more of state do not ask for another block."""

_MAGIC, _VERSION = b"HPCARENA", 1
_HEADER = struct.Struct("<8sIIqqqQQQQQ16s16s")
_CRC = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies, in bytes from the start of the block.

    Attributes:
        shard_offsets: of the raw bytes of each shard.
        size_bytes: of all of it, without rounding.
    """

    meta_offset: int
    seal_offset: int
    data_offset: int
    shard_offsets: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The commit record of a block.

    Attributes:
        world_size: number of ranks that saved together.
        meta_xxh3: XXH3 with 128 bits of the meta region.
        seal_xxh3: of the seal region; zeros until the shards have been hashed.
    """

    step: int
    incarnation: int
    world_size: int
    meta_bytes: int
    shard_count: int
    seal_offset: int
    data_offset: int
    size_bytes: int
    meta_xxh3: bytes
    seal_xxh3: bytes = bytes(DIGEST_BYTES)

    @property
    def is_sealed(self) -> bool:
        """The shards have been hashed."""
        return any(self.seal_xxh3)

    def to_bytes(self) -> bytes:
        """The header with its own checksum."""
        body = _HEADER.pack(
            _MAGIC, _VERSION, 0, self.step, self.incarnation, self.world_size, self.meta_bytes, self.shard_count,
            self.seal_offset, self.data_offset, self.size_bytes, self.meta_xxh3, self.seal_xxh3,
        )
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Read a header back.

        Raises:
            ValueError: there is none, it is damaged, or of another version.
        """
        body = data[: _HEADER.size]
        if len(data) < _HEADER.size + _CRC.size or body[: len(_MAGIC)] != _MAGIC:
            raise ValueError("the block holds no complete checkpoint")
        if _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(body):
            raise ValueError("the header of the block is damaged")
        _, version, _, *rest = _HEADER.unpack(body)
        if version != _VERSION:
            raise ValueError(f"the block has version {version}, this hpctrain reads {_VERSION}")
        return cls(*rest)


def plan(sizes_bytes: Sequence[int], meta_bytes: int) -> Layout:
    """Where shards of these sizes lie, after a meta region of this size."""
    seal_offset = _round_up(HEADER_BYTES + meta_bytes, ALIGNMENT_BYTES)
    data_offset = _round_up(seal_offset + DIGEST_BYTES * len(sizes_bytes), PAGE_BYTES)
    offsets, end = [], data_offset
    for size in sizes_bytes:
        offsets.append(end)
        end = _round_up(end + size, ALIGNMENT_BYTES)
    return Layout(HEADER_BYTES, seal_offset, data_offset, tuple(offsets), end)


def block_bytes(size_bytes: int) -> int:
    """Size of the block to allocate for a layout of this size."""
    return _round_up(max(size_bytes, 1), ROUND_BYTES)


def meta_room(meta_bytes: int) -> int:
    """Room to plan for the meta region, so that text that grows a little moves nothing."""
    return _round_up(meta_bytes + meta_bytes // 8 + 1, PAGE_BYTES)


def shards_text(shards: Iterable[Shard]) -> bytes:
    """The unchanging part of the meta region; made once, reused for every save of the same shards."""
    rows = [[shard.name, shard.dtype, shard.global_shape, shard.offsets, shard.shape] for shard in shards]
    return json.dumps(rows, separators=(",", ":")).encode()


def meta_text(
    shards: bytes, own_state: str, world: Mapping[str, Any], reason: str, share: Mapping[str, Any] | None = None
) -> bytes:
    """The meta region.

    Args:
        shards: from :func:`shards_text`.
        own_state: JSON of what is not a tensor.
        world: layout of the ranks.
        reason: why it is saved.
        share: what else is to be known of this rank's share: tied tensors, what all ranks must have alike.
    """
    own = json.dumps(own_state).encode()
    about = json.dumps({"world": dict(world), "reason": reason, "share": dict(share or {})}).encode()
    return b'{"shards":' + shards + b',"own_state":' + own + b',"about":' + about + b"}"


@dataclass(frozen=True, slots=True)
class Meta:
    """What the meta region says; see :func:`meta_text`."""

    shards: tuple[Shard, ...]
    own_state: str
    world: Mapping[str, Any]
    reason: str
    share: Mapping[str, Any]

    @classmethod
    def from_bytes(cls, text: bytes) -> Meta:
        """Read it back.

        Raises:
            ValueError: it is not one.
        """
        try:
            record = json.loads(text)
            shards = tuple(Shard(name, dtype, tuple(total), tuple(first), tuple(shape))
                           for name, dtype, total, first, shape in record["shards"])
            about = record["about"]
            return cls(shards, str(record["own_state"]), dict(about["world"]), str(about["reason"]), dict(about["share"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"the meta region lacks {error}") from None


def check(header: Header, meta: Meta, block_size_bytes: int) -> Layout:
    """Make sure that header, meta region and block fit each other; return where the shards lie.

    Raises:
        ValueError: they do not.
    """
    sizes = [shard.nbytes for shard in meta.shards]
    layout = _from_header(sizes, header)
    if len(sizes) != header.shard_count or layout.size_bytes > block_size_bytes:
        raise ValueError(f"{len(sizes)} shards with {layout.size_bytes} bytes do not fit a block of {block_size_bytes}")
    return layout


def _from_header(sizes_bytes: Sequence[int], header: Header) -> Layout:
    first = plan(sizes_bytes, 0)
    shift = header.data_offset - first.data_offset
    offsets = tuple(offset + shift for offset in first.shard_offsets)
    return Layout(HEADER_BYTES, header.seal_offset, header.data_offset, offsets, first.size_bytes + shift)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
