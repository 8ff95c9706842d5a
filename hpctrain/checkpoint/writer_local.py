"""Orders for the node's own disk (service over :class:`LocalTier`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpctrain.checkpoint.arena_reader import ArenaCheckpoint
from hpctrain.checkpoint.commit import FencedError
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.tier_local import LocalTier
from hpctrain.checkpoint.writer_order import Order, done, failed
from hpctrain.checkpoint.writer_source import FAILURES, error_text, write_from_memory
from hpctrain.clock import Clock


class LocalWriter:
    """Carries out orders on a local tier, each at once and by itself."""

    def __init__(self, client: KeeperClient, clock: Clock) -> None:
        self._client, self._clock = client, clock

    def begin(self, order: Order) -> dict[str, Any]:
        """Write a part and make it exist.

        Raises:
            WireError: the keeper is gone.
        """
        started, tier = self._clock.monotonic(), LocalTier(Path(order.root))
        try:
            size_bytes = self._write(tier, order)
        except FencedError as error:
            return failed(str(error), overtaken=True)
        except FAILURES as error:
            tier.discard(order.name, order.rank)
            return failed(error_text(error), seconds=self._clock.monotonic() - started)
        if order.retention is not None:
            keep = [CheckpointName(*pair) for pair in order.details.get("keep") or ()]
            tier.prune(order.retention.keep_last, keep)
        return done(seconds=self._clock.monotonic() - started, size_bytes=size_bytes, committed=True)

    def _write(self, tier: LocalTier, order: Order) -> int:
        tier.claim(order.name.incarnation)
        about: dict[str, Any] = {}

        def look(part: ArenaCheckpoint) -> None:
            about.update(aliases=dict(part.share.get("aliases") or {}), world_size=part.header.world_size,
                         world=part.world, reason=part.reason)

        def write(tensors: Iterable[tuple[Shard, Any]], own: str, _: Mapping[str, str], replicated: str) -> Share:
            return tier.write(order.name, order.rank, tensors, own, replicated=replicated)

        share = write_from_memory(self._client, order, write, look=look)
        tier.commit(order.name, share, time=self._clock.time(), **about)
        return sum(file.size_bytes for file in share.files)
