"""Hashes shards while they arrive, and compares (adapter over ``xxhash``)."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from hpctrain.checkpoint.shards import Shard


class SealCheck:
    """Follows a block that is being filled from its start.

    Args:
        offsets: of the shards in the block, in order.
        digests: the hashes that they must have.
    """

    def __init__(self, shards: Sequence[Shard], offsets: Sequence[int], digests: Sequence[bytes]) -> None:
        self._todo = list(zip(shards, offsets, digests, strict=True))
        self._next, self._wrong = 0, ""
        self._hash, self._done = xxhash.xxh3_128(), 0

    def advance(self, view: memoryview, end: int) -> None:
        """Everything before ``end`` is there now."""
        while self._next < len(self._todo) and not self._wrong:
            shard, offset, digest = self._todo[self._next]
            stop = min(end, offset + shard.nbytes)
            if stop > offset + self._done:
                with view[offset + self._done:stop] as part:
                    self._hash.update(part)
                self._done = stop - offset
            if self._done < shard.nbytes:
                return
            if self._hash.digest() != digest:
                self._wrong = f"{shard.name} arrived damaged (its xxh3 hash is not the one that was committed)"
                return
            self._next, self._done = self._next + 1, 0
            self._hash.reset()

    def problem(self) -> str:
        """When all has come: which shard is not what it must be; "" when all are."""
        missing = len(self._todo) - self._next
        return self._wrong or (f"{missing} shards have not arrived" if missing else "")
