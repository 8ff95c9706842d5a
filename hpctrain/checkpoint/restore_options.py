"""Which place of which piece is still to be tried, the same on every rank (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpctrain.checkpoint.restore_plan import Offer
from hpctrain.checkpoint.restore_sources import Origin
from hpctrain.checkpoint.shards import StoredShard

STORE_TRIES = 2
"""By so many ranks a piece in a store is tried: one node may not see what others do."""

Place = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Failure:
    """A piece that could not be read.

    Attributes:
        place: of the piece.
        rank: that tried.
        hung: the place does not answer that rank at all.
    """

    place: Place
    origin: Origin
    rank: int
    reason: str
    hung: bool = False

    def __str__(self) -> str:
        part = f" (part of rank {self.place[0]})" if self.origin.node else ""
        return f"{self.origin}{part}: {self.reason}"


class Options:
    """What every piece can be read from, and by whom.

    Args:
        origins: of parts on nodes, with the ranks that see them.
        stores: usable ones, readable by everyone.
        world_size: ranks that restore.
    """

    def __init__(self, origins: Mapping[Origin, Sequence[int]], stores: Sequence[Origin], world_size: int) -> None:
        self._origins: dict[str, list[Origin]] = {}
        for origin in sorted(origins, key=lambda origin: origin.order):
            self._origins.setdefault(str(origin.part), []).append(origin)
        self._ranks, self._stores, self._everyone = dict(origins), list(stores), range(world_size)
        self._hung: set[tuple[Origin, int]] = set()
        self._bad: dict[tuple[Place, Origin], set[int]] = {}
        self._whole: dict[str, list[Offer]] = {}  # of each part, as long as nothing has failed
        self.failures: list[Failure] = []

    def fail(self, failure: Failure) -> None:
        """Not again."""
        self.failures.append(failure)
        self._bad.setdefault((failure.place, failure.origin), set()).add(failure.rank)
        if failure.hung:
            self._hung.add((failure.origin, failure.rank))

    def offers(self, stored: StoredShard) -> list[Offer]:
        """Where a piece may still be had, best first."""
        if self.failures:
            return self._left(stored)
        if stored.file not in self._whole:
            self._whole[stored.file] = self._left(stored)
        return self._whole[stored.file]

    def _left(self, stored: StoredShard) -> list[Offer]:
        place = stored.file, stored.offset_bytes
        found = []
        for origin in (*self._origins.get(stored.file, ()), *self._stores):
            ranks = self._able(place, origin)
            if ranks:
                found.append(Offer(origin, origin.cost, ranks))
        return found

    def _able(self, place: Place, origin: Origin) -> Sequence[int]:
        tried = self._bad.get((place, origin), set())
        if len(tried) >= (STORE_TRIES if origin.store >= 0 else 1):
            return ()
        ranks = self._everyone if origin.store >= 0 else self._ranks[origin]
        if not tried and not self._hung:
            return ranks
        return [rank for rank in ranks if rank not in tried and (origin, rank) not in self._hung]
