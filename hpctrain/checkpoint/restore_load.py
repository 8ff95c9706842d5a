"""Fills tensors from any mix of places, all ranks together (adapter over ``torch``).

Every byte that reaches a tensor has been compared with its committed hash. Every piece is read by one rank; where that
fails, by another one or from another place, until none is left.
"""

from __future__ import annotations

import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from hpctrain.checkpoint import restore_plan
from hpctrain.checkpoint.fill import FillPlan, memory_of, place_of
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.restore_options import Failure, Options, Place
from hpctrain.checkpoint.restore_places import Places
from hpctrain.checkpoint.restore_plan import MissingError, Piece
from hpctrain.checkpoint.restore_sources import Origin
from hpctrain.checkpoint.restore_threads import Pulse, Read, ReadCrew

_IN_MEMORY = ("ram", "peer")
_SMALL_BYTES = 1024 * 1024


@dataclass(slots=True)
class Taken:
    """What was read from where, over all ranks.

    Attributes:
        by_part: for each part, the bytes from each origin.
    """

    size_bytes: int = 0
    by_part: dict[int, dict[Origin, int]] = field(default_factory=dict)

    def add(self, piece: Piece) -> None:
        """One more piece."""
        size = piece.stored.size_bytes
        self.size_bytes += size
        origins = self.by_part.setdefault(int(piece.stored.file), {})
        origins[piece.origin] = origins.get(piece.origin, 0) + size


class Load:
    """One checkpoint on its way into the tensors.

    Args:
        plan: what this rank needs.
        options: where it can be had.
        crew: reads; it remembers what hangs.
        pulse: told the bytes that this rank has, and needs.
    """

    def __init__(
        self, plan: FillPlan, places: Places, options: Options, ranks: Ranks, *, crew: ReadCrew, pulse: Pulse
    ) -> None:
        self._plan, self._places, self._options, self._ranks, self._pulse = plan, places, options, ranks, pulse
        self._crew = crew
        self._scratch = _Scratch()
        self._undelivered = ""
        self._order = {place_of(stored): number for number, stored in enumerate(plan.stored)}
        needs = ranks.everyone(array.array("I", plan.needs).tobytes())
        self._needs = [array.array("I", text) for text in needs]

    def run(self, *, deliver: bool = True) -> tuple[Taken, str]:
        """Fill the tensors; why that cannot be, the same on every rank, "" when all is filled.

        Args:
            deliver: False only reads and verifies all that would be delivered; no tensor is touched.
        """
        taken = Taken()
        try:
            pieces = restore_plan.assign(self._plan.stored, self._needs, self._options.offers)
        except MissingError as error:
            return taken, str(error)
        rank = self._ranks.rank
        total = sum(piece.stored.size_bytes for piece in pieces if rank in (piece.needed_by if deliver else (piece.reader,)))
        done = 0
        self._pulse(0, total)
        for part in restore_plan.rounds(pieces):
            landings: dict[Place, torch.Tensor] = {}
            read, reason = self._round(part, landings, (done, total), deliver=deliver)
            if reason:
                return taken, reason
            for piece in read:
                taken.add(piece)
                if deliver and rank in piece.holders:
                    self._deliver(piece, landings)
            done += sum(piece.stored.size_bytes for piece in part
                        if rank in (piece.needed_by if deliver else (piece.reader,)))
            for data in landings.values():
                self._scratch.give(data)
            self._pulse(min(done, total), total)
        return taken, self._ranks.first_error(self._undelivered)

    def _round(
        self, todo: Sequence[Piece], landings: dict[Place, torch.Tensor], progress: tuple[int, int], *, deliver: bool
    ) -> tuple[list[Piece], str]:
        """Read pieces, each from one place after another; how it went in the end, and why not at all."""
        final: list[Piece] = []
        while todo:
            mine = [piece for piece in todo if piece.reader == self._ranks.rank]
            failures = [failure for found in self._ranks.everyone(self._read(mine, landings, progress, deliver=deliver))
                        for failure in found]
            failed: dict[Place, Failure] = {}
            for failure in failures:
                self._options.fail(failure)
                failed[failure.place] = failure
            final.extend(piece for piece in todo if place_of(piece.stored) not in failed)
            try:
                todo = self._again([piece for piece in todo if place_of(piece.stored) in failed])
            except MissingError:
                return final, "; ".join(dict.fromkeys(str(failure) for failure in failures[:3]))
        return sorted(final, key=lambda piece: self._order[place_of(piece.stored)]), ""

    def _again(self, failed: Sequence[Piece]) -> list[Piece]:
        loads = [0] * self._ranks.world_size
        return [restore_plan.pick(piece.stored, piece.needed_by, self._options.offers(piece.stored), loads)
                for piece in failed]

    def _read(
        self, mine: Sequence[Piece], landings: dict[Place, torch.Tensor], progress: tuple[int, int], *, deliver: bool
    ) -> list[Failure]:
        broken = self._prepare({piece.origin for piece in mine})
        reads: dict[Place, Read] = {}
        for piece in mine:
            if piece.origin in broken:
                continue
            place = place_of(piece.stored)
            # A read that hangs is given up, and may still write into its memory later: so what can hang never gets a
            # tensor's own memory. Memory cannot hang.
            own = self._plan.in_place(piece.stored) if deliver and piece.origin.tier in _IN_MEMORY else None
            landings[place] = own if own is not None else self._scratch.take(piece.stored.size_bytes)
            reads[place] = Read(piece.origin, memory_of(landings[place]), self._reader(piece))
        done, total = progress
        self._crew.run(list(reads.values()), lambda count: self._pulse(min(done + count, total), total))
        failures = []
        for piece in mine:
            place = place_of(piece.stored)
            if piece.origin in broken:
                failures.append(Failure(place, piece.origin, self._ranks.rank, broken[piece.origin]))
            elif reads[place].reason:
                failures.append(Failure(place, piece.origin, self._ranks.rank, reads[place].reason, reads[place].hung))
                landings.pop(place)  # not given back: if it hangs, somebody still holds it
        return failures

    def _reader(self, piece: Piece) -> Callable[[memoryview], None]:
        return lambda target: self._places.read(piece.origin, piece.stored, target)

    def _prepare(self, origins: set[Origin]) -> dict[Origin, str]:
        """Open what is read from; the reasons where that failed."""
        broken = {}
        for origin in sorted(origins, key=lambda origin: (origin.part, origin.order)):
            try:
                self._places.prepare(origin)
            except Exception as error:  # noqa: BLE001 - whatever it is, there may be another place
                broken[origin] = str(error) or type(error).__name__
            self._pulse.alive()
        return broken

    def _deliver(self, piece: Piece, landings: dict[Place, torch.Tensor]) -> None:
        place = place_of(piece.stored)
        if place not in landings:
            own = self._plan.in_place(piece.stored)
            landings[place] = own if own is not None else self._scratch.take(piece.stored.size_bytes)
        if len(piece.holders) > 1:
            self._ranks.share(landings[place], piece.reader, piece.needed_by)
        if self._ranks.rank in piece.needed_by:
            try:
                self._plan.deliver(piece.stored, landings[place])
            except RuntimeError as error:  # the others wait for the next piece
                self._undelivered = self._undelivered or f"{piece.stored.shard.name}: {error}"
        self._scratch.give(landings.pop(place))


class _Scratch:
    """Large buffers that are used again: making fresh memory costs more than filling it."""

    def __init__(self) -> None:
        self._free: list[torch.Tensor] = []
        self._used: dict[int, torch.Tensor] = {}

    def take(self, size_bytes: int) -> torch.Tensor:
        """Memory for so many bytes."""
        if size_bytes < _SMALL_BYTES:
            return torch.empty(size_bytes, dtype=torch.uint8)
        fitting = [index for index, buffer in enumerate(self._free) if buffer.numel() >= size_bytes]
        if fitting:
            buffer = self._free.pop(min(fitting, key=lambda index: self._free[index].numel()))
        else:
            self._free.clear()  # all too small; kept, they would add up
            buffer = torch.empty(size_bytes, dtype=torch.uint8)
        self._used[buffer.data_ptr()] = buffer
        return buffer[:size_bytes]

    def give(self, data: torch.Tensor) -> None:
        """It is used no more; what is no buffer of ours is left alone."""
        buffer = self._used.pop(data.data_ptr(), None)
        if buffer is not None:
            self._free.append(buffer)
