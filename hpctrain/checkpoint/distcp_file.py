"""Writes one ``.distcp`` file from raw buffers, hashing on the way (adapter over the file system).

Needs no torch and no process group. Each byte is read from memory once: hashed, for its shard and for the file, and
written; nothing is read back. The file is forced to disk once, at its end; by then most of it is there. Where the bytes go
is a :class:`Sink`: a new file, or what an object store makes of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import xxhash

from hpctrain.checkpoint.distcp import ALIGNMENT_BYTES, entry
from hpctrain.checkpoint.distcp_writeback import WriteBack
from hpctrain.checkpoint.manifest import FileEntry
from hpctrain.checkpoint.shards import Shard, StoredShard
from hpctrain.files import PRIVATE_FILE

CHUNK_BYTES = 256 * 1024
"""Hashed twice and written while it is still in the processor's cache, also where that is shared with training's threads: of
1 MiB a busy machine has lost much before the second hash, and takes twice the processor time."""

_SMALL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Written:
    """What became of one file."""

    file: FileEntry
    shards: list[StoredShard]


class Sink(Protocol):
    """Takes the bytes of one file, in order."""

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes; the buffer may change as soon as this returns. Raises OSError."""

    def finish(self) -> None:
        """Make everything that was sent durable, as one file. Raises OSError."""

    def close(self) -> None:
        """Let go; without :meth:`finish` before it, what was sent may be lost. Called once, whatever happened."""


def write_distcp(path: Path, items: Iterable[tuple[Shard, Any]]) -> Written:
    """Write shards one after the other into a new file; it is on disk when this returns.

    Args:
        items: each shard with its raw bytes, as anything that supports the buffer protocol; taken one at a time, so that
            a generator can bring each from a GPU just before it is written.

    Raises:
        OSError: it cannot be written, or is there already.
        ValueError: a buffer has another size than its shard, or the shard cannot be stored.
    """
    return write_distcp_to(NewFile(path), path.name, items)


def write_distcp_to(sink: Sink, name: str, items: Iterable[tuple[Shard, Any]]) -> Written:
    """The same into any sink, which is closed when this returns.

    Args:
        name: of the file in the manifest.
    """
    try:
        output = _Output(name, sink)
        shards = [_write_shard(output, shard, buffer) for shard, buffer in items]
        return Written(output.finish(), shards)
    finally:
        sink.close()


def _write_shard(output: _Output, shard: Shard, buffer: Any) -> StoredShard:
    raw = memoryview(buffer).cast("B") if shard.nbytes else memoryview(b"")
    if raw.nbytes != shard.nbytes:
        raise ValueError(f"{shard.name}: {raw.nbytes} bytes for a box of {shard.nbytes}")
    around, digest = entry(shard), xxhash.xxh3_128()
    output.align()
    output.write(around.head)
    offset = output.size_bytes
    for start in range(0, raw.nbytes, CHUNK_BYTES):
        chunk = raw[start:start + CHUNK_BYTES]
        digest.update(chunk)
        output.write(chunk)
    output.write(around.tail)
    return StoredShard(shard, output.name, offset, raw.nbytes, digest.hexdigest())


class _Output:
    """What goes into a sink: its size and its hash so far."""

    def __init__(self, name: str, sink: Sink) -> None:
        self.name, self.size_bytes = name, 0
        self._sink, self._digest = sink, xxhash.xxh3_128()
        self._waiting = bytearray()

    def align(self) -> None:
        self.write(b"\0" * (-self.size_bytes % ALIGNMENT_BYTES))

    def write(self, data: bytes | memoryview) -> None:
        self.size_bytes += len(data)
        if len(data) < _SMALL_BYTES:  # heads, tails and tiny tensors: collected, as each call costs more than its bytes
            self._waiting += data
            if len(self._waiting) >= CHUNK_BYTES:
                self._flush()
            return
        self._flush()
        self._send(data)

    def finish(self) -> FileEntry:
        self._flush()
        self._sink.finish()
        return FileEntry(self.name, self.size_bytes, self._digest.hexdigest())

    def _flush(self) -> None:
        if self._waiting:
            self._send(self._waiting)
            self._waiting = bytearray()

    def _send(self, data: bytes | bytearray | memoryview) -> None:
        self._digest.update(data)
        self._sink.send(data)


class NewFile:
    """A new private file."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        self._write_back = WriteBack(self._handle)

    def send(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            count = os.write(self._handle, rest)
            self._write_back.wrote(count)
            rest = rest[count:]

    def finish(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)
