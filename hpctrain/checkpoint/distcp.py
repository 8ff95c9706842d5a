"""The bytes of DCP's files: one ``torch.save`` entry per shard, and the index over all of them (pure).

An entry is a zip archive, as ``torch.save`` writes it, whose one large member holds the raw bytes of the box,
uncompressed. So the same file is read by stock ``torch.distributed.checkpoint.load``, which opens the archive, and by our
own restore, which knows the offset of the raw bytes and opens nothing. Checksums of zip members (CRC-32) are left out, as
``torch.serialization.set_crc32_options(False)`` leaves them out: they cost more than all the rest, and XXH3 does better.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from hpctrain.checkpoint.pickle_text import Call, Global, Instance, Persistent, dumps
from hpctrain.checkpoint.shards import Extent, Shard, StoredShard, dtype_bytes, strides

ALIGNMENT_BYTES = 64
"""Entries, and the raw bytes in them, begin at multiples of this."""

HEAD_BYTES = 2048
"""Raw bytes begin this far into an entry, always: enough for a tensor of 64 dimensions, the most that torch knows."""

_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_BYTE_ORDER = b"little" if struct.pack("=H", 1) == b"\x01\x00" else b"big"
_NAMES = (b"archive/data.pkl", b"archive/byteorder", b"archive/version", b"archive/data/0")
_LOCAL_BYTES, _CENTRAL_BYTES, _END_BYTES = 30, 46, 22  # without names
TAIL_BYTES = sum(_CENTRAL_BYTES + len(name) for name in _NAMES) + _END_BYTES
"""Length of what follows the raw bytes in an entry."""
_LIMIT_BYTES = 1 << 31  # above, zip needs 64-bit fields; pieces are far smaller

# Types that torch.save has a storage class for. All others are stored as bytes with the type beside them.
_STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage", "complex64": "ComplexFloatStorage",
    "complex128": "ComplexDoubleStorage",
}
_METADATA = "torch.distributed.checkpoint.metadata"
_FILESYSTEM = "torch.distributed.checkpoint.filesystem"


@dataclass(frozen=True, slots=True)
class Entry:
    """What surrounds the raw bytes of one shard.

    Attributes:
        head: comes before them; always :data:`HEAD_BYTES` long.
        tail: comes after them; always :data:`TAIL_BYTES` long.
    """

    head: bytes
    tail: bytes


@dataclass(frozen=True, slots=True)
class _Member:
    name: bytes
    size_bytes: int
    crc: int
    offset_bytes: int


def entry(shard: Shard) -> Entry:
    """Head and tail of the entry of a shard.

    Raises:
        ValueError: a shard too large for one entry (see :func:`hpctrain.checkpoint.shards.pieces`), or of a data type
            that cannot be stored.
    """
    if shard.nbytes >= _LIMIT_BYTES:
        raise ValueError(f"{shard.name}: a piece of {shard.nbytes} bytes is too large; cut it first")
    return _entry(shard.dtype, shard.shape)


@lru_cache(maxsize=1024)  # a model has few different shapes, and each thrice with its optimizer's state
def _entry(dtype: str, shape: Extent) -> Entry:
    size_bytes = math.prod(shape) * dtype_bytes(dtype)
    head, members = b"", []
    for name, content in zip(_NAMES, (tensor_pickle(dtype, shape), _BYTE_ORDER, b"3\n"), strict=False):
        member = _Member(name, len(content), zlib.crc32(content), len(head))
        members.append(member)
        head += _local_header(member, 0) + content
    data = _Member(_NAMES[-1], size_bytes, 0, len(head))
    members.append(data)
    # An extra field of the private kind "FB", as torch uses it, fills the head up.
    head += _local_header(data, HEAD_BYTES - len(head) - _LOCAL_BYTES - len(data.name))
    directory = b"".join(_directory_entry(member) for member in members)
    end = struct.pack("<4sHHHHIIH", _END, 0, 0, len(members), len(members), len(directory), len(head) + size_bytes, 0)
    return Entry(head, directory + end)


def tensor_pickle(dtype: str, shape: Extent) -> bytes:
    """What ``torch.save`` says about a contiguous tensor on the CPU, except its bytes."""
    no_hooks = Call(Global("collections", "OrderedDict"), ())
    count, storage = math.prod(shape), _STORAGES.get(dtype)
    if storage:
        place = Persistent(("storage", Global("torch", storage), "0", "cpu", count))
        return dumps(Call(Global("torch._utils", "_rebuild_tensor_v2"), (place, 0, shape, strides(shape), False, no_hooks)))
    place = Persistent(("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", count * dtype_bytes(dtype)))
    arguments = (place, 0, shape, strides(shape), False, no_hooks, Global("torch", dtype))
    return dumps(Call(Global("torch._utils", "_rebuild_tensor_v3"), arguments))


def index(tensors: Mapping[str, Sequence[StoredShard]]) -> bytes:
    """DCP's ``.metadata`` for tensors that are stored as :func:`entry` says: for other tools, we never read it."""
    described: dict[str, Instance] = {}
    places: list[tuple[Instance, Instance]] = []
    for name, stored in tensors.items():
        first = stored[0].shard
        chunks = [_instance("ChunkStorageMetadata", offsets=_size(item.shard.offsets), sizes=_size(item.shard.shape))
                  for item in stored]
        described[name] = _instance(
            "TensorStorageMetadata", properties=_properties(first.dtype), size=_size(first.global_shape), chunks=chunks
        )
        places.extend(_place(item, number) for number, item in enumerate(stored))
    return dumps(_instance(
        "Metadata", state_dict_metadata=described, planner_data={name: (name,) for name in tensors},
        # A dict whose keys are objects: the reader makes it, from pairs.
        storage_data=Call(Global("builtins", "dict"), (places,)), storage_meta=None, version="1.0.0",
    ))


def _place(item: StoredShard, number: int) -> tuple[Instance, Instance]:
    key = _instance("MetadataIndex", fqn=item.shard.name, offset=_size(item.shard.offsets), index=number)
    info = {"relative_path": item.file, "offset": item.offset_bytes - HEAD_BYTES,
            "length": HEAD_BYTES + item.size_bytes + TAIL_BYTES}
    return key, Instance(Global(_FILESYSTEM, "_StorageInfo"), info)


def _properties(dtype: str) -> Instance:
    layout = Call(Global("torch.serialization", "_get_layout"), ("torch.strided",))
    contiguous = Call(Global(_METADATA, "_MEM_FORMAT_ENCODING"), (0,))
    return Instance(Global(_METADATA, "TensorProperties"), (Global("torch", dtype), layout, False, contiguous, False))


def _instance(kind: str, **state: object) -> Instance:
    return Instance(Global(_METADATA, kind), state)


def _size(extent: Extent) -> Call:
    return Call(Global("torch", "Size"), (extent,))


def _local_header(member: _Member, padding_bytes: int) -> bytes:
    """A member's header; padded, if asked, by an extra field of that many bytes (at least the 4 of its own header)."""
    padding = struct.pack("<2sH", b"FB", padding_bytes - 4).ljust(padding_bytes, b"Z") if padding_bytes else b""
    return struct.pack("<4sHHHHHIIIHH", _LOCAL, 0, 0x0800, 0, 0, 0, member.crc, member.size_bytes, member.size_bytes,
                       len(member.name), len(padding)) + member.name + padding


def _directory_entry(member: _Member) -> bytes:
    return struct.pack("<4sHHHHHHIIIHHHHHII", _CENTRAL, 0, 0, 0x0800, 0, 0, 0, member.crc, member.size_bytes,
                       member.size_bytes, len(member.name), 0, 0, 0, 0, 0, member.offset_bytes) + member.name


def by_name(stored: Iterable[StoredShard]) -> dict[str, list[StoredShard]]:
    """Shards sorted into tensors, in an order that does not depend on who wrote them first."""
    tensors: dict[str, list[StoredShard]] = {}
    for item in sorted(stored, key=lambda item: (item.shard.name, item.shard.offsets)):
        tensors.setdefault(item.shard.name, []).append(item)
    return tensors
