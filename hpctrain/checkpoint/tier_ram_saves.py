"""One rank's share of saves in memory, and its orders to the writer (service).

A save counts only when every rank's part of it is complete; until the next one does, no rank overwrites it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint.capture import Capture
from hpctrain.checkpoint.config import CheckpointConfig, RamConfig
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.parts import PartTier
from hpctrain.checkpoint.ranks import Ranks, error_of
from hpctrain.checkpoint.tier_ram import RamTier
from hpctrain.checkpoint.tier_ram_connect import KeeperConnector
from hpctrain.clock import Clock

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
        tier.holdings()  # where no agent holds the memory, this starts a keeper
        made.append(RamSaves(tier, clock))

    # Rank 0 first: it makes the secret that the others read, and the keeper that they find.
    error = ranks.on_first(lambda: error_of(make))
    error = error or ranks.first_error("" if ranks.is_first else error_of(make))
    if error:
        text = f"no checkpoints in memory, so training waits while the shared tier is written: {error}"
        tell("checkpoint.degraded", text, 0, {"tier": "ram"})
        return None
    return made[0]


class RamSaves:
    """One rank's share.

    Args:
        tier: this rank's.

    Attributes:
        complete: the newest checkpoint that all ranks have; it is not overwritten.
    """

    def __init__(self, tier: RamTier, clock: Clock) -> None:
        self._tier, self._clock = tier, clock
        self.complete: CheckpointName | None = None

    def stage(
        self, step: int, collect: Callable[[], tuple[Capture, str]], *, reason: str, world: Mapping[str, Any],
        ordered: CheckpointName | None = None,
    ) -> Staged:
        """Copy this rank's part into memory; the caller finds out whether all ranks have it, and sets :attr:`complete`.

        Args:
            collect: makes this rank's share and the rest of its state.
            world: layout of the ranks.
            ordered: one that no writer has taken yet, and that is not overwritten either.
        """
        started = self._clock.monotonic()
        collected: list[tuple[Capture, str]] = []
        error = error_of(lambda: collected.append(collect()))
        if error:
            return Staged(error)
        captured, own = collected[0]
        share = {"aliases": captured.aliases, "replicated": captured.fingerprint}
        keep = {name for name in (self.complete, ordered) if name is not None}
        done = self._tier.stage(step, captured.pieces, own, reason=reason, keep=keep, world=world, share=share)
        is_busy = bool(done.error) and not done.overtaken and not self._tier.is_degraded
        return Staged(done.error, done.overtaken, is_busy, done.allocated, self._clock.monotonic() - started)

    def post(self, tier: str, name: CheckpointName, task: Mapping[str, Any]) -> str:
        """Order this rank's part of a checkpoint to be written to a tier; why that cannot be, "" if it can."""
        return self._tier.persist(name, tier, task)

    def persisted(self, tier: str) -> Mapping[str, Any]:
        """What has become of this rank's order for a tier."""
        return self._tier.persisted(tier)

    def parts(self) -> list[PartTier]:
        """What this node's memory holds, of its own ranks and of another node's: to restore from."""
        return [self._tier.parts(), self._tier.peer_parts()]

    def close(self) -> None:
        """Hang up; what is complete stays."""
        self._tier.close()
