"""Which block of memory holds which checkpoint, and which may be overwritten (pure).

A rank has a few *slots*. A slot is empty, leased to the one process that fills it, or complete. What is leased and never
committed becomes empty again when its process is gone. The rules that make sure that no fault loses a checkpoint:

- The newest checkpoint that *all* ranks here hold is never overwritten, nor what the caller wants kept. Copies of other
  nodes' ranks come one by one, so there only the caller can know what is common; without a word, the newest stays.
- Only the process that holds the lease can commit, and only while no newer incarnation has been seen.
- A slot that an overtaken process may still be writing to is not given to anybody else: its memory is dropped.

*Spare* slots get memory only when all others are needed, such as while one is being read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from hpctrain.checkpoint.names import CheckpointName


class RefusedError(Exception):
    """The keeper does not do this; the message says why. Nothing has changed."""


class OvertakenError(RefusedError):
    """A newer incarnation has been here: whoever asked must end."""


class BusyError(RefusedError):
    """Every slot is needed at this moment; a later try may succeed."""


@dataclass(eq=False)
class Slot:
    """One block.

    Attributes:
        generation: number of the memory block behind it; 0 when there is none.
        epoch: counts leases, so that work on an older content can be recognised.
        lease: connection that may fill it; None when nobody may.
        name: checkpoint that it holds; None when it holds none.
        pins: readers that must not see it change.
        world_size: number of ranks that saved what it holds.
        is_spare: to be used only when nothing else can be.
    """

    rank: int
    index: int
    generation: int = 0
    size_bytes: int = 0
    epoch: int = 0
    lease: int | None = None
    name: CheckpointName | None = None
    pins: int = 0
    world_size: int = 0
    is_spare: bool = False

    @property
    def is_empty(self) -> bool:
        """Holds nothing and nobody fills it."""
        return self.lease is None and self.name is None


@dataclass
class SlotTable:
    """All slots of a node; see the module's text for the rules.

    Attributes:
        incarnation: newest that has been seen.
        of_copies: of other nodes' ranks.
    """

    incarnation: int = -1
    of_copies: bool = False
    slots: dict[int, list[Slot]] = field(default_factory=dict)
    _active: dict[int, int] = field(default_factory=dict)  # connection -> rank, of the newest incarnation

    def join(self, connection: int, rank: int, incarnation: int, slots: int, spares: int = 0) -> list[int]:
        """A rank arrives; returns generations to be dropped, because an overtaken process may be writing to them.

        Args:
            spares: slots beyond ``slots`` that may be used when all those are needed.

        Raises:
            OvertakenError: it is of an older incarnation.
        """
        self.check(incarnation)
        dropped: list[Slot] = []
        if incarnation > self.incarnation:
            self.incarnation = incarnation
            self._active.clear()
            dropped = [slot for slot in self.all() if slot.lease is not None]
        # A second process for the same rank overtakes the first, too.
        for other in [other for other, held in self._active.items() if held == rank]:
            del self._active[other]
            dropped += [slot for slot in self.slots.get(rank, []) if slot.lease == other]
        generations = [slot.generation for slot in dropped if slot.generation]
        for slot in dropped:
            slot.lease, slot.name, slot.generation, slot.size_bytes = None, None, 0, 0
            slot.epoch += 1
        self._active[connection] = rank
        own = self.slots.setdefault(rank, [])
        own += [Slot(rank, index) for index in range(len(own), slots + spares)]
        for slot in own:
            slot.is_spare = slot.index >= slots
        return generations

    def leave(self, connection: int) -> None:
        """A process is gone: what it had not finished is empty now."""
        self._active.pop(connection, None)
        for slot in self.all():
            if slot.lease == connection:
                slot.lease = None

    def check(self, incarnation: int) -> None:
        """Refuse an incarnation that has been overtaken.

        Raises:
            OvertakenError: it has.
        """
        if incarnation < self.incarnation:
            raise OvertakenError(
                f"incarnation {self.incarnation} has taken over; incarnation {incarnation} may no longer save"
            )

    def lease(self, connection: int, keep: Collection[CheckpointName] = (), without: Collection[Slot] = ()) -> Slot:
        """Choose a slot and forget what it holds.

        Args:
            keep: checkpoints that must stay in any case.
            without: slots for which there is no memory.

        Raises:
            OvertakenError: the process has been overtaken.
            BusyError: no slot may be overwritten now.
        """
        rank = self._rank_of(connection)
        for slot in self.slots[rank]:
            if slot.lease == connection:
                slot.lease = None  # it gave up that attempt
        slot = self._victim(rank, keep, without)
        slot.lease, slot.name = connection, None
        slot.epoch += 1
        return slot

    def commit(self, connection: int, index: int, name: CheckpointName, world_size: int = 1) -> Slot:
        """From now on the slot holds this checkpoint.

        Raises:
            OvertakenError: the process has been overtaken.
            RefusedError: it has no lease on that slot.
        """
        rank = self._rank_of(connection)
        self.check(name.incarnation)
        slot = self.slots[rank][index] if 0 <= index < len(self.slots[rank]) else None
        if slot is None or slot.lease != connection:
            raise RefusedError(f"slot {index} of rank {rank} is not leased to this process")
        for other in self.slots[rank]:
            if other.name == name:
                other.name = None  # the same step, saved again
        slot.lease, slot.name, slot.world_size = None, name, world_size
        return slot

    def find(self, rank: int, name: CheckpointName) -> Slot:
        """The slot that holds a checkpoint.

        Raises:
            RefusedError: there is none.
        """
        for slot in self.slots.get(rank, []):
            if slot.name == name:
                return slot
        raise RefusedError(f"rank {rank} has no complete {name} here")

    def holdings(self) -> dict[int, list[CheckpointName]]:
        """Complete checkpoints by rank, oldest first."""
        return {rank: sorted(slot.name for slot in slots if slot.name is not None) for rank, slots in self.slots.items()}

    def whole(self) -> list[CheckpointName]:
        """Checkpoints of which the parts of all ranks that saved are here, oldest first."""
        held = self.holdings()
        return [slot.name for slot in sorted(self.slots.get(0, []), key=lambda slot: slot.name or CheckpointName(-1, -1))
                if slot.name is not None and all(slot.name in held.get(rank, ()) for rank in range(slot.world_size))]

    def newest_common(self) -> CheckpointName | None:
        """The newest checkpoint that every rank that is here now holds; None when there is none."""
        held = self.holdings()
        sets = [set(held.get(rank, [])) for rank in self._active.values()]
        return max(set.intersection(*sets), default=None) if sets else None

    def drop(self, rank: int, name: CheckpointName) -> Slot:
        """Forget a checkpoint.

        Raises:
            RefusedError: there is none of that name, or it is being read.
        """
        slot = self.find(rank, name)
        if slot.pins:
            raise BusyError(f"{name} of rank {rank} is being read")
        slot.name = None
        slot.epoch += 1
        return slot

    def all(self) -> Iterable[Slot]:
        """Every slot."""
        return [slot for slots in self.slots.values() for slot in slots]

    def _rank_of(self, connection: int) -> int:
        if connection not in self._active:
            raise OvertakenError(f"incarnation {self.incarnation} has taken over; this process may no longer save")
        return self._active[connection]

    def _victim(self, rank: int, keep: Collection[CheckpointName], without: Collection[Slot]) -> Slot:
        slots = self.slots[rank]
        free = [slot for slot in slots if slot.lease is None and not slot.pins and slot not in without]
        empty = [slot for slot in free if slot.is_empty]
        for slot in empty:
            if slot.generation or not slot.is_spare:
                return slot
        candidates = [(slot.name, slot.index) for slot in free
                      if slot.name is not None and slot.name not in keep and slot.name != self._precious(slots, keep)]
        if candidates:
            return slots[min(candidates)[1]]
        if empty:
            return empty[0]
        raise BusyError(f"all {len(slots)} slots of rank {rank} are needed: {self._uses(slots)}")

    def _precious(self, slots: list[Slot], keep: Collection[CheckpointName]) -> CheckpointName | None:
        newest = max((slot.name for slot in slots if slot.name is not None), default=None)
        # Who says what to keep knows what all nodes have in common; what this node's ranks have in common may be newer, and
        # protecting both would leave two slots with nothing to fill.
        if any(slot.name in keep for slot in slots):
            return None
        if self.of_copies:
            return None if keep else newest
        # Where the ranks have nothing in common yet, each one's newest is what they may come to have in common.
        return self.newest_common() or newest

    def _uses(self, slots: list[Slot]) -> str:
        return ", ".join(
            "being filled by another process" if slot.lease is not None
            else f"{slot.name} being read" if slot.pins
            else f"{slot.name} kept" if slot.name is not None else "no memory for another one" for slot in slots
        )
