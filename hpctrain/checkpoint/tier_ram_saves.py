"""Saves and restores in memory, all ranks together (service).

A save counts only when every rank's part of it is complete; until the next one does, no rank overwrites it. A restore from
memory needs the parts of all ranks in the memory of every node: with several nodes that takes copies on peers, so until
then such a checkpoint is passed over, with the reason.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

import xxhash

from hpctrain.checkpoint import names
from hpctrain.checkpoint.arena_reader import ArenaCheckpoint
from hpctrain.checkpoint.capture import Capture
from hpctrain.checkpoint.config import CheckpointConfig, RamConfig
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import Ranks, error_of, lowest_error
from hpctrain.checkpoint.restore import Source
from hpctrain.checkpoint.schedule import retry_step
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import StoredShard, with_aliases
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.tier_ram import RamTier, StageResult
from hpctrain.checkpoint.tier_ram_connect import KeeperConnector
from hpctrain.checkpoint.write import check_shares
from hpctrain.clock import Clock

_CHUNK_BYTES = 1024 * 1024
_NOTHING = StageResult(CheckpointName(0, 0), 0.0, 0)


Tell = Callable[[str, str, int, Mapping[str, Any]], None]
"""Told of an event's kind, reason, step and evidence."""


def open_ram(config: CheckpointConfig, incarnation: int, ranks: Ranks, clock: Clock, tell: Tell) -> RamSaves | None:
    """The RAM tier on every rank, or, if that cannot be, on none; a collective call."""
    settings = config.ram or RamConfig()
    made: list[RamSaves] = []

    def make() -> None:
        tier = RamTier(KeeperConnector.from_env(os.environ, config.root), rank=ranks.rank, world_size=ranks.world_size,
                       incarnation=incarnation, slots=2 + settings.history, clock=clock)
        made.append(RamSaves(tier, ranks, settings, world=config.world, clock=clock, tell=tell))

    # Rank 0 first: it makes the secret that the others read.
    error = ranks.on_first(lambda: error_of(make))
    error = error or ranks.first_error("" if ranks.is_first else error_of(make))
    if error:
        tell("checkpoint.degraded", f"no checkpoints in memory: {error}", 0, {"tier": "ram"})
        return None
    return made[0]


class RamSaves:
    """The RAM tier of all ranks.

    Args:
        tier: this rank's.
        world: layout of the ranks.
        tell: of a tier that is degraded, and of one that has recovered.
    """

    def __init__(
        self, tier: RamTier, ranks: Ranks, config: RamConfig, *, world: Mapping[str, Any], clock: Clock, tell: Tell
    ) -> None:
        self._tier, self._ranks, self._config, self._clock, self._tell = tier, ranks, config, clock, tell
        self._world = {"world_size": ranks.world_size, **world}
        self._complete: CheckpointName | None = None
        self._failures, self._retry_at = 0, 0

    def due(self, step: int) -> bool:
        """Whether to save after ``step``; counted in steps, so that all ranks agree without asking each other."""
        return step % self._config.every_steps == 0 and step >= self._retry_at

    def save(self, step: int, collect: Callable[[], tuple[Capture, str]]) -> bool:
        """Copy every rank's part into memory; a collective call. What goes wrong is told, and tried again later.

        Args:
            collect: this rank's share and the rest of its state.

        Returns:
            Whether a newer incarnation is at work: these ranks must end.
        """
        results: list[StageResult] = []
        error = error_of(lambda: results.append(self._stage(step, *collect())))
        gathered = self._ranks.gather((error, results))
        errors = [text or one.error for text, ones in gathered for one in ones or [_NOTHING]]
        overtaken = any(one.overtaken for _, ones in gathered for one in ones)
        error, overtaken = self._ranks.broadcast((lowest_error(errors), overtaken))
        if not error:
            self._complete = results[0].name
        self._report(step, error)
        return overtaken

    def _stage(self, step: int, captured: Capture, own: str) -> StageResult:
        share = {"aliases": captured.aliases, "replicated": captured.fingerprint}
        keep = [] if self._complete is None else [self._complete]
        reason = f"every {self._config.every_steps} steps"
        return self._tier.stage(step, captured.pieces, own, reason=reason, keep=keep, world=self._world, share=share)

    def _report(self, step: int, error: str) -> None:
        if error:
            self._failures += 1
            self._retry_at = retry_step(step, self._failures)
            if self._failures == 1:
                self._tell("checkpoint.degraded", f"step {step} is not in memory: {error}", step, {"tier": "ram"})
        elif self._failures:
            self._failures = 0
            self._tell("checkpoint.recovered", f"step {step} is in memory again", step, {"tier": "ram"})

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
            self._complete = name  # kept until a newer one is complete
            self._tell("checkpoint.restored", f"{name} from memory, saved because {cause}", name.step, evidence)
        return reason

    def complete(self) -> list[CheckpointName]:
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
