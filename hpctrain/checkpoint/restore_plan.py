"""Who reads which bytes when a checkpoint is restored (pure).

A piece that one rank needs is read by that rank. A piece that several need (weights that are not sharded, replicas, another
layout) is read by one of them, and sent to the others: shared storage hands out each byte once. All ranks work through the
pieces in the same order and in *rounds*, so that no rank holds more than a bounded amount in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    """

    stored: StoredShard
    reader: int
    needed_by: tuple[int, ...]


def distinct(table: Mapping[str, Sequence[StoredShard]]) -> list[StoredShard]:
    """Every stored run of bytes once, as they lie in their files: the order that all ranks share."""
    places = {(item.file, item.offset_bytes): item for stored in table.values() for item in stored if item.size_bytes}
    return [places[place] for place in sorted(places)]


def assign(stored: Sequence[StoredShard], needs: Sequence[Iterable[int]]) -> list[Piece]:
    """Decide who reads what; the same on every rank.

    Args:
        stored: of :func:`distinct`.
        needs: for each rank, which of them it needs (positions in ``stored``).
    """
    needed_by: dict[int, list[int]] = {}
    for rank, wanted in enumerate(needs):
        for place in wanted:
            needed_by.setdefault(place, []).append(rank)
    loads, pieces = [0] * len(needs), []
    for place in sorted(needed_by):
        reader = min(needed_by[place], key=lambda rank: (loads[rank], rank))
        loads[reader] += stored[place].size_bytes
        pieces.append(Piece(stored[place], reader, tuple(needed_by[place])))
    return pieces


def rounds(pieces: Sequence[Piece], limit_bytes: int = ROUND_BYTES) -> list[list[Piece]]:
    """Cut the work so that no rank holds more than ``limit_bytes`` (or one piece) of a round."""
    found: list[list[Piece]] = []
    held: dict[int, int] = {}
    for piece in pieces:
        size = piece.stored.size_bytes
        if not found or any(held.get(rank, 0) and held[rank] + size > limit_bytes for rank in piece.needed_by):
            found.append([])
            held = {}
        found[-1].append(piece)
        for rank in piece.needed_by:
            held[rank] = held.get(rank, 0) + size
    return found
