"""One rank's part of saves in memory, and restores from there by all ranks together (service).

A save counts only when every rank's part of it is complete; until the next one does, no rank overwrites it. A restore from
memory needs the parts of all ranks in the memory of every node: with several nodes that takes copies on peers, so until
then such a checkpoint is passed over, with the reason.
"""

from __future__ import annotations

import contextlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from hpctrain.checkpoint import names
from hpctrain.checkpoint.arena_reader import ArenaCheckpoint
from hpctrain.checkpoint.capture import Capture
from hpctrain.checkpoint.config import CheckpointConfig, RamConfig
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import Ranks, error_of
from hpctrain.checkpoint.restore import Source
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import StoredShard, with_aliases
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.tier_ram import RamTier
from hpctrain.checkpoint.tier_ram_connect import KeeperConnector
from hpctrain.checkpoint.write import check_shares
from hpctrain.clock import Clock

_CHUNK_BYTES = 1024 * 1024

Tell = Callable[[str, str, int, Mapping[str, Any]], None]
"""Told of an event's kind, reason, step and evidence."""


@dataclass(frozen=True, slots=True)
class Staged:
    """How one rank's copy into memory ended.

    Attributes:
        error: why there is none; "" when it is complete.
        overtaken: a newer incarnation is at work: these ranks must end.
        is_busy: the memory is in use; nothing is wrong with the tier.
        allocated: memory was allocated, so that the stall is not what later ones will be.
        stall_s: seconds that training stood still.
    """

    error: str = ""
    overtaken: bool = False
    is_busy: bool = False
    allocated: bool = False
    stall_s: float = 0.0


def open_ram(config: CheckpointConfig, incarnation: int, ranks: Ranks, clock: Clock, tell: Tell) -> RamSaves | None:
    """The RAM tier on every rank, or, if that cannot be, on none; a collective call."""
    settings = config.ram or RamConfig()
    made: list[RamSaves] = []

    def make() -> None:
        tier = RamTier(KeeperConnector.from_env(os.environ, config.root, writer=True), rank=ranks.rank,
                       world_size=ranks.world_size, incarnation=incarnation, slots=2 + settings.history, clock=clock)
        made.append(RamSaves(tier, ranks, clock=clock, tell=tell))

    # Rank 0 first: it makes the secret that the others read.
    error = ranks.on_first(lambda: error_of(make))
    error = error or ranks.first_error("" if ranks.is_first else error_of(make))
    if error:
        text = f"no checkpoints in memory, so training waits while the shared tier is written: {error}"
        tell("checkpoint.degraded", text, 0, {"tier": "ram"})
        return None
    return made[0]


class RamSaves:
    """One rank's share of the RAM tier, and what all ranks have in common there.

    Args:
        tier: this rank's.
        tell: of a restore.

    Attributes:
        complete: the newest checkpoint that all ranks have; it is not overwritten.
    """

    def __init__(self, tier: RamTier, ranks: Ranks, *, clock: Clock, tell: Tell) -> None:
        self._tier, self._ranks, self._clock, self._tell = tier, ranks, clock, tell
        self.complete: CheckpointName | None = None

    def stage(
        self, step: int, collect: Callable[[], tuple[Capture, str]], *, reason: str, world: Mapping[str, Any]
    ) -> Staged:
        """Copy this rank's part into memory; the caller finds out whether all ranks have it, and sets :attr:`complete`.

        Args:
            collect: makes this rank's share and the rest of its state.
            world: layout of the ranks.
        """
        started = self._clock.monotonic()
        collected: list[tuple[Capture, str]] = []
        error = error_of(lambda: collected.append(collect()))
        if error:
            return Staged(error)
        captured, own = collected[0]
        share = {"aliases": captured.aliases, "replicated": captured.fingerprint}
        keep = [] if self.complete is None else [self.complete]
        done = self._tier.stage(step, captured.pieces, own, reason=reason, keep=keep, world=world, share=share)
        is_busy = bool(done.error) and not done.overtaken and not self._tier.is_degraded
        return Staged(done.error, done.overtaken, is_busy, done.allocated, self._clock.monotonic() - started)

    def post(self, tier: str, name: CheckpointName, task: Mapping[str, Any]) -> str:
        """Order this rank's part of a checkpoint to be written to a tier; why that cannot be, "" if it can."""
        return self._tier.persist(name, {**task, "tier": tier})

    @property
    def can_order(self) -> bool:
        """Until the keeper tells tiers apart."""
        return "tier" in inspect.signature(self._tier.persist).parameters

    def persisted(self, tier: str) -> Mapping[str, Any]:
        """What has become of this rank's order for a tier."""
        del tier
        return self._tier.persisted()

    def restore(self, name: CheckpointName, load: Callable[[Source], str]) -> str:
        """Load a checkpoint; every rank returns the same reason why that failed, "" when it did not."""
        started = self._clock.monotonic()
        opened, reason = self.open(name)
        if opened is None:
            return reason
        try:
            reason = load(opened.source())
            evidence = {"checkpoint": str(name), "tier": "ram", "size_bytes": opened.size_bytes, "saved_by": opened.world,
                        "seconds": round(self._clock.monotonic() - started, 4)}
            cause = opened.reason
        finally:
            opened.close()
        if not reason:
            self.complete = name  # kept until a newer one is complete
            self._tell("checkpoint.restored", f"{name} from memory, saved because {cause}", name.step, evidence)
        return reason

    def complete_everywhere(self) -> list[CheckpointName]:
        """What may be restored from memory, oldest first, the same on every rank; a collective call."""
        gathered = self._ranks.gather(set(self._tier.whole()))
        return self._ranks.broadcast(sorted(set.intersection(*gathered)) if gathered else [])

    def open(self, name: CheckpointName) -> tuple[OpenSave | None, str]:
        """Open a checkpoint on every rank; None, and the same reason everywhere, if it cannot be used."""
        opened: list[OpenSave] = []
        error = self._ranks.first_error(error_of(lambda: opened.append(OpenSave(self._tier, name))))
        if not error:
            return opened[0], ""
        for one in opened:
            one.close()
        return None, error

    def close(self) -> None:
        """Hang up; what is complete stays."""
        self._tier.close()


class OpenSave:
    """The parts of all ranks of one checkpoint, as this rank sees them; a :class:`~hpctrain.checkpoint.fill.Reader`.

    Raises:
        ValueError: the part of a rank is damaged, or the parts are not a whole.
        RefusedError: the part of a rank is not in this node's memory.
        WireError: the keeper is gone.
    """

    def __init__(self, tier: RamTier, name: CheckpointName) -> None:
        self._parts: list[ArenaCheckpoint] = []
        try:
            self._parts.append(tier.read(name, 0, verify=False))
            for rank in range(1, self._parts[0].header.world_size):
                self._parts.append(tier.read(name, rank, verify=False))
            shares = [Share(rank, (), tuple(_renamed(part, rank)), str(part.share.get("replicated", "")))
                      for rank, part in enumerate(self._parts)]
            check_shares(shares)
        except BaseException:
            self.close()
            raise
        shards = tuple(shard for share in shares for shard in share.shards)
        self.manifest = Manifest(name.step, name.incarnation, len(self._parts), (), shards)
        self.size_bytes = sum(stored.size_bytes for part in self._parts for stored in part.shards)
        self.world, self.reason = dict(self._parts[0].world), self._parts[0].reason
        self._name = name

    def source(self) -> Source:
        """For :func:`hpctrain.checkpoint.restore.restore`."""
        return Source(f"{self._name} in memory", "the RAM tier", self.manifest, self._read_file, self)

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Copy a shard's bytes, and hash what arrived.

        Raises:
            DamagedError: it is not what was committed.
        """
        digest = xxhash.xxh3_128()
        with self._parts[int(stored.file)].data(stored) as data:
            for start in range(0, stored.size_bytes, _CHUNK_BYTES):
                end = min(start + _CHUNK_BYTES, stored.size_bytes)
                target[start:end] = data[start:end]
                digest.update(target[start:end])
        if digest.hexdigest() != stored.xxh3:
            raise DamagedError(f"the memory of rank {stored.file} is damaged: {stored.shard.name} has not the xxh3 hash "
                               "that was committed")

    def close(self) -> None:
        """Let the memory be reused."""
        for part in self._parts:
            with contextlib.suppress(WireError):  # a keeper that is gone has let go already
                part.close()
        self._parts.clear()

    def _read_file(self, file: str) -> bytes:
        for rank, part in enumerate(self._parts):
            if file == names.rank_file(rank):
                return part.own_state.encode()
        raise ValueError(f"{file} is not in memory")


def _renamed(part: ArenaCheckpoint, rank: int) -> list[StoredShard]:
    stored = [StoredShard(one.shard, str(rank), one.offset_bytes, one.size_bytes, one.xxh3) for one in part.shards]
    return with_aliases(stored, dict(part.share.get("aliases", {})))
