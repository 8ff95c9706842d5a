"""A rank's shards out of the keeper's memory, for files (service over :class:`ArenaCheckpoint`).

The bytes are hashed once for the shard and once for the file while they are written. What the shard's hash then is, is
compared with the one that the keeper sealed: memory that went bad is noticed before anything is committed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import xxhash

from hpctrain.checkpoint.arena_reader import ArenaCheckpoint
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.problems import describe
from hpctrain.checkpoint.shards import Shard, StoredShard, pieces, start_in
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.writer_order import Order
from hpctrain.errors import HpctrainError

SEALED_S = 300.0
"""Longest wait for the keeper to have hashed a part."""

FAILURES = (HpctrainError, RefusedError, OSError, ValueError)
"""What may go wrong with one order; the next one may succeed."""

WriteShare = Callable[[Iterable[tuple[Shard, Any]], str, Mapping[str, str], str], Share]
"""Takes tensors, own state, aliases and the name for what is replicated."""


def error_text(error: Exception) -> str:
    """One line for a person."""
    return str(error) if isinstance(error, (RefusedError, ValueError)) else describe(error)


def write_from_memory(
    client: KeeperClient, order: Order, write: WriteShare, *,
    look: Callable[[ArenaCheckpoint], None] = lambda _: None,
) -> Share:
    """Open a part in memory and write it; its memory is not reused meanwhile.

    Args:
        look: called with the open part first.

    Raises:
        ValueError: the part in memory is damaged.
        RefusedError: it is not there.
        WireError: the keeper is gone.
        OSError, StorageError: it cannot be written.
    """
    with ArenaCheckpoint(
        client, order.rank, order.name, wait_s=SEALED_S, verify=False, store=order.store
    ) as part:
        look(part)
        with contextlib.closing(_pieces(part)) as items:
            aliases = dict(part.share.get("aliases") or {})
            share = write(items, part.own_state, aliases, str(part.share.get("replicated", "")))
        _compare(part, share)
        return share


def _pieces(part: ArenaCheckpoint) -> Generator[tuple[Shard, memoryview], None, None]:
    for stored in part.shards:
        with part.data(stored) as data:
            cut = pieces(stored.shard)
            if len(cut) > 1 and xxhash.xxh3_128_hexdigest(data) != stored.xxh3:
                raise _damaged(stored)  # the hashes of its pieces are new: nothing to compare them with later
            for piece in cut:
                first = start_in(stored.shard, piece)
                with data[first:first + piece.nbytes] as view:
                    yield piece, view


def _compare(part: ArenaCheckpoint, share: Share) -> None:
    written = {stored.shard: stored.xxh3 for stored in share.shards}
    for stored in part.shards:
        if written.get(stored.shard, stored.xxh3) != stored.xxh3:
            raise _damaged(stored)


def _damaged(stored: StoredShard) -> ValueError:
    return ValueError(f"{stored.shard.name} is damaged in memory (its xxh3 hash is not the one that was sealed)")
