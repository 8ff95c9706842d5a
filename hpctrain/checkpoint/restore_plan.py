"""Who reads which bytes when a checkpoint is restored (pure).

Every piece is read by one rank, and sent to the others that need it: storage hands out each byte once. Of the ranks that can
read it at the least cost, one that needs it reads it; of those, from the best place, the one who has least to read. All
ranks work through the pieces in the same order and in *rounds*, so that no rank holds more than a bounded amount in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint.shards import StoredShard

ROUND_BYTES = 256 * 1024 * 1024
"""What one rank reads and receives in one round; at least one piece."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that are read, and verified, as one.

    Attributes:
        stored: one of the shards that are these bytes (tied tensors have several).
        reader: rank that reads it.
        needed_by: ranks that need it, in order.
        origin: where that rank reads it; None where there is but one place.
    """

    stored: StoredShard
    reader: int
    needed_by: tuple[int, ...]
    origin: Any = None

    @property
    def holders(self) -> tuple[int, ...]:
        """Ranks that hold it in memory for a moment."""
        return self.needed_by if self.reader in self.needed_by else (*self.needed_by, self.reader)


@dataclass(frozen=True, slots=True)
class Offer:
    """A place of a piece.

    Attributes:
        cost: the cheapest is taken, whoever needs the piece.
        ranks: that can read it there.
    """

    origin: Any
    cost: int
    ranks: Sequence[int]


Offers = Callable[[StoredShard], Sequence[Offer]]
"""The places of a piece, best first; none when it cannot be had."""


class MissingError(Exception):
    """A piece cannot be had from anywhere; the message says why."""


def distinct(table: Mapping[str, Sequence[StoredShard]]) -> list[StoredShard]:
    """Every stored run of bytes once, as they lie in their files: the order that all ranks share."""
    places = {(item.file, item.offset_bytes): item for stored in table.values() for item in stored if item.size_bytes}
    return [places[place] for place in sorted(places)]


def assign(stored: Sequence[StoredShard], needs: Sequence[Iterable[int]], offers: Offers | None = None) -> list[Piece]:
    """Decide who reads what; the same on every rank.

    Args:
        stored: of :func:`distinct`.
        needs: for each rank, which of them it needs (positions in ``stored``).
        offers: who can read what; None: everyone everything.

    Raises:
        MissingError: nobody can read a piece.
    """
    needed_by: dict[int, list[int]] = {}
    for rank, wanted in enumerate(needs):
        for place in wanted:
            needed_by.setdefault(place, []).append(rank)
    everywhere = [Offer(None, 0, range(len(needs)))]
    loads = [0] * len(needs)
    return [pick(stored[place], needed_by[place], everywhere if offers is None else offers(stored[place]), loads)
            for place in sorted(needed_by)]


def pick(stored: StoredShard, needed_by: Sequence[int], offers: Sequence[Offer], loads: list[int]) -> Piece:
    """Decide who reads a piece, and add that to the loads (bytes per rank).

    Raises:
        MissingError: nobody can.
    """
    if not offers:
        raise MissingError(f"{stored.shard.name} cannot be had from anywhere")
    least = min(offer.cost for offer in offers)
    best = [(place, offer) for place, offer in enumerate(offers) if offer.cost == least]
    able = {rank: place for place, offer in reversed(best) for rank in needed_by if rank in offer.ranks}
    able = able or {rank: place for place, offer in reversed(best) for rank in offer.ranks}
    reader = min(able, key=lambda rank: (able[rank], loads[rank], rank))
    loads[reader] += stored.size_bytes
    return Piece(stored, reader, tuple(needed_by), offers[able[reader]].origin)


def rounds(pieces: Sequence[Piece], limit_bytes: int = ROUND_BYTES) -> list[list[Piece]]:
    """Cut the work so that no rank holds more than ``limit_bytes`` (or one piece) of a round."""
    found: list[list[Piece]] = []
    held: dict[int, int] = {}
    for piece in pieces:
        size = piece.stored.size_bytes
        if not found or any(held.get(rank, 0) and held[rank] + size > limit_bytes for rank in piece.holders):
            found.append([])
            held = {}
        found[-1].append(piece)
        for rank in piece.holders:
            held[rank] = held.get(rank, 0) + size
    return found
