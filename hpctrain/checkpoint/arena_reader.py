"""A complete checkpoint in memory, opened for reading and verified (adapter over a keeper's blocks).

Needs no torch: the writer process uses it as well as a restore.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

import xxhash

from hpctrain.checkpoint import arena_memory
from hpctrain.checkpoint.arena import Header
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import Shard, StoredShard

FILE = "arena"
"""What stands for a file name in :class:`hpctrain.checkpoint.shards.StoredShard`."""

_THREADS = 4
_CHUNK_BYTES = 1024 * 1024


class ArenaCheckpoint:
    """The shards and the state of one rank; a context manager. While it is open, its memory is not reused.

    It is a :class:`hpctrain.checkpoint.parts.Part`; several threads may read at once.

    Args:
        store: of the keeper: ``own``, or ``peer`` for a copy of another node's rank.
        wait_s: for the keeper to finish hashing it.
        verify: compare all hashes now; if not, the caller does while it copies.

    Attributes:
        shards: where the bytes of each shard lie in the block.
        own_state: JSON of what is not a tensor.
        world: layout of the ranks that saved it.
        reason: why it was saved.
        share: what else was said of it; see :func:`hpctrain.checkpoint.arena.meta_text`.

    Raises:
        ValueError: something in it is damaged; the message says what.
        RefusedError: the keeper has no such checkpoint.
        WireError: the keeper is gone.
    """

    own_state: str
    world: Mapping[str, Any]
    reason: str
    share: Mapping[str, Any]
    shards: Sequence[StoredShard]

    def __init__(self, client: KeeperClient, rank: int, name: CheckpointName, *, wait_s: float = 60.0,
                 verify: bool = True, store: str = "own") -> None:
        self._client, self._verifies = client, verify
        self._what = f"the memory of rank {rank}" if store == "own" else f"the copy of rank {rank} in memory"
        answer, handle = client.request_handle(
            "open", rank=rank, name=[name.incarnation, name.step], wait_s=wait_s, extra_s=wait_s, store=store
        )
        self._pin: int | None = answer["pin"]
        self._handle, self._lock = handle, threading.Lock()
        self._map: mmap.mmap | None = None
        try:
            if handle is None:
                raise ValueError("the keeper sent no memory")
            self._open(handle, name)
        except BaseException:
            self.close()
            raise

    def _open(self, handle: int, name: CheckpointName) -> None:
        header = arena_memory.read_header(handle)
        if (header.incarnation, header.step) != (name.incarnation, name.step):
            raise ValueError(f"the block holds step {header.step} of incarnation {header.incarnation}")
        meta, layout = arena_memory.read_meta(handle, header)
        digests = arena_memory.read_seal(handle, header)
        self.own_state, self.world, self.reason, self.share = meta.own_state, meta.world, meta.reason, meta.share
        self.header: Header = header
        self.shards = [
            StoredShard(shard, FILE, offset, shard.nbytes, digest.hex())
            for shard, offset, digest in zip(meta.shards, layout.shard_offsets, digests, strict=True)
        ]
        if self._verifies:
            self._verify()

    def _verify(self) -> None:
        with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
            for stored, digest in zip(self.shards, pool.map(self._hash, self.shards), strict=True):
                if digest != stored.xxh3:
                    raise ValueError(f"{stored.shard.name} is damaged (its xxh3 hash is not the committed one)")

    def _hash(self, stored: StoredShard) -> str:
        with self.data(stored) as view:
            return arena_memory.hash_range(view).hex()

    def data(self, stored: StoredShard) -> memoryview:
        """The raw bytes of a shard, not copied; release the view before :meth:`close`."""
        with self._lock:
            if self._map is None:
                self._map = arena_memory.map_block(self._open_handle, writable=False)
            return memoryview(self._map)[stored.offset_bytes:stored.offset_bytes + stored.size_bytes]

    @property
    def _open_handle(self) -> int:
        if self._handle is None:
            raise ValueError("the checkpoint is closed")
        return self._handle

    @property
    def world_size(self) -> int:
        """Number of ranks that saved together."""
        return self.header.world_size

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Copy a shard's bytes, and hash what has arrived.

        Raises:
            DamagedError: it is not what was committed.
        """
        digest, handle, done = xxhash.xxh3_128(), self._open_handle, 0
        # Read, not mapped: mapping page after page costs as much as copying it. Neither call holds the interpreter's lock,
        # and what has just arrived is hashed from the cache.
        while done < stored.size_bytes:
            with target[done:done + _CHUNK_BYTES] as chunk:
                count = os.preadv(handle, [chunk], stored.offset_bytes + done)
                digest.update(chunk[:count])
            if not count:
                raise DamagedError(f"{self._what} is damaged: it ends inside {stored.shard.name}")
            done += count
        if digest.hexdigest() != stored.xxh3:
            raise DamagedError(f"{self._what} is damaged: {stored.shard.name} has not the xxh3 hash that was committed")

    def items(self) -> Iterator[tuple[Shard, memoryview]]:
        """Every shard with its bytes."""
        for stored in self.shards:
            yield stored.shard, self.data(stored)

    def close(self) -> None:
        """Let the memory be reused. What still looks at it sees what comes next, or fails; so nothing may."""
        if self._map is not None:
            with contextlib.suppress(BufferError):  # somebody still looks; then it ends with the last view
                self._map.close()
            self._map = None
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)
        if self._pin is not None:
            pin, self._pin = self._pin, None
            with contextlib.suppress(WireError, RefusedError):  # a keeper that is gone has let go already
                self._client.request("close", pin=pin)

    def __enter__(self) -> ArenaCheckpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        self.close()
