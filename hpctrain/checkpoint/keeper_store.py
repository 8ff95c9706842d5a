"""One store of a keeper: slots, the memory behind them, and who reads them (service).

A keeper has two: of this node's own ranks, and of copies of another node's. All calls but :meth:`Store.begin` and
:meth:`Store.seal` expect that the caller holds the keeper's lock; those two hold it for moments only, never while memory is
allocated, hashed or waited for.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from hpctrain.checkpoint import arena_memory, memory_budget
from hpctrain.checkpoint.arena import Header, block_bytes
from hpctrain.checkpoint.arena_memory import BlockError
from hpctrain.checkpoint.keeper_slots import BusyError, OvertakenError, RefusedError, Slot, SlotTable
from hpctrain.checkpoint.memory_budget import Limit
from hpctrain.checkpoint.names import CheckpointName

MakeBlock = Callable[[int, Callable[[int], str]], int]

NEEDED_SLOTS = 2
"""Per rank: one to keep and one to fill. Without memory for more there is less history, but no error."""


LARGE_BYTES = 1024 * 1024
"""Hashing more than this is worth another thread's time."""


class NoMemoryError(RefusedError):
    """The node has not got the memory; the message carries the arithmetic."""


@dataclass
class Budget:
    """What all stores of a keeper may allocate together.

    Attributes:
        read_limits: what bounds memory now.
        make_block: allocates.
        pending_bytes: being allocated at this moment.
    """

    read_limits: Callable[[], Sequence[Limit]]
    make_block: MakeBlock = arena_memory.make_block
    pending_bytes: int = 0

    def objection(self, need: int, what: str, *, pending_bytes: int = 0) -> str:
        """Why so much must not be allocated; "" when it may be."""
        return memory_budget.refusal(need, self.read_limits(), what=what, pending_bytes=pending_bytes)


@dataclass
class Store:
    """The checkpoints of some ranks.

    Attributes:
        what: for messages.
        table: who may fill and read what.
        changed: the keeper's lock.
        to_seal: what waits for its hashes.
    """

    what: str
    table: SlotTable
    budget: Budget
    changed: threading.Condition
    to_seal: queue.SimpleQueue[tuple[Store, Slot, int]]
    handles: dict[int, int] = field(default_factory=dict)  # generation -> descriptor
    made: int = 0
    sealed: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)
    """(rank, slot) -> (epoch, what is wrong or "")"""

    # --- filling --------------------------------------------------------------------------------------------------

    def join(self, connection: int, rank: int, incarnation: int, slots: int, spares: int) -> None:
        """A rank arrives. Raises OvertakenError."""
        for generation in self.table.join(connection, rank, incarnation, slots, spares):
            self.release(generation)

    def begin(self, connection: int, size_bytes: int, keep: Collection[CheckpointName], have: Collection[int]
              ) -> tuple[Slot, int | None]:
        """Give a block to fill, and a descriptor unless its generation is in ``have``.

        Where the memory does not reach for more than the two that every rank needs, one of those is overwritten.

        Raises:
            NoMemoryError: there is no memory for the first two.
            BusyError, OvertakenError: see :class:`~hpctrain.checkpoint.keeper_slots.SlotTable`.
        """
        need, without = block_bytes(size_bytes), list[Slot]()
        shortage: NoMemoryError | None = None
        while True:
            try:
                with self.changed:
                    slot = self._lease(connection, keep, without, need)
                    epoch = slot.epoch
            except BusyError:
                if shortage is None or self._blocks(without[0].rank) >= NEEDED_SLOTS:
                    raise
                raise shortage from None
            try:
                if not slot.generation:
                    self._allocate(slot, epoch, connection, need)
            except NoMemoryError as error:
                shortage = shortage or error
                without.append(slot)
                if self._blocks(slot.rank) < NEEDED_SLOTS:
                    raise shortage from None
                continue
            with self.changed:
                self._still_leased(slot, epoch, connection)
                return slot, None if slot.generation in have else os.dup(self.handles[slot.generation])

    def _lease(self, connection: int, keep: Collection[CheckpointName], without: list[Slot], need: int) -> Slot:
        slot = self.table.lease(connection, keep, without)
        if slot.generation and slot.size_bytes < need:
            self.release(slot.generation)
            slot.generation, slot.size_bytes = 0, 0
        if slot.generation:
            arena_memory.clear_header(self.handles[slot.generation])
        return slot

    def _blocks(self, rank: int) -> int:
        return sum(slot.generation > 0 for slot in self.table.slots[rank])

    def _allocate(self, slot: Slot, epoch: int, connection: int, need: int) -> None:
        """Without the lock: the kernel clears gigabytes here."""
        what = f"a block for slot {slot.index} of rank {slot.rank} in {self.what}"
        with self.changed:
            reason = self.budget.objection(need, what, pending_bytes=self.budget.pending_bytes)
            if reason:
                if slot.epoch == epoch:
                    slot.lease = None
                raise NoMemoryError(reason)
            self.budget.pending_bytes += need
        handle: int | None = None
        try:
            handle = self.budget.make_block(need, lambda rest: self.budget.objection(rest, what))
        except BlockError as error:
            reason = str(error)
        with self.changed:
            self.budget.pending_bytes -= need
            if handle is None:
                if slot.epoch == epoch:
                    slot.lease = None
                raise NoMemoryError(reason)
            try:
                self._still_leased(slot, epoch, connection)
            except OvertakenError:
                os.close(handle)
                raise
            self.made += 1
            self.handles[self.made] = handle
            slot.generation, slot.size_bytes = self.made, need

    def _still_leased(self, slot: Slot, epoch: int, connection: int) -> None:
        if slot.epoch != epoch or slot.lease != connection:
            raise OvertakenError("a newer start of this rank has taken over; this process may no longer save")

    def commit(self, connection: int, index: int, name: CheckpointName, header: Header) -> None:
        """From now on the slot holds this checkpoint; if there are hashes in it, whoever brought it has compared them."""
        slot = self.table.commit(connection, index, name, header.world_size)
        arena_memory.write_header(self.handles[slot.generation], header)
        if header.is_sealed:
            self.sealed[slot.rank, slot.index] = (slot.epoch, "")
        else:
            self.to_seal.put((self, slot, slot.epoch))

    # --- hashing --------------------------------------------------------------------------------------------------

    def seal(
        self, slot: Slot, epoch: int, hash_large: Callable[[memoryview], bytes] = arena_memory.hash_range
    ) -> None:
        """Hash what has been committed.

        Args:
            hash_large: for more than :data:`LARGE_BYTES`.
        """
        with self.changed:
            if slot.epoch != epoch or slot.name is None:
                return  # overwritten already: the newest is what counts
            handle = os.dup(self.handles[slot.generation])
        reason, digests, header = "", None, None
        try:
            header = arena_memory.read_header(handle)
            digests = _hash(handle, header, lambda: slot.epoch == epoch, hash_large)
        except (ValueError, OSError) as error:
            reason = str(error)
        with self.changed:
            if slot.epoch == epoch and slot.name is not None:
                if header is not None and digests is not None:
                    arena_memory.write_header(handle, arena_memory.write_seal(handle, header, digests))
                self.sealed[slot.rank, slot.index] = (epoch, reason)
                self.changed.notify_all()
        os.close(handle)

    def cannot_seal(self, slot: Slot, epoch: int, reason: str) -> None:
        """Say that it will never be hashed: who wants to read it must not wait for that."""
        with self.changed:
            if slot.epoch == epoch:
                self.sealed[slot.rank, slot.index] = (epoch, reason)
                self.changed.notify_all()

    # --- reading --------------------------------------------------------------------------------------------------

    def open(self, slot: Slot, wait_s: float) -> int:
        """A descriptor for reading, once the checkpoint has been hashed; the slot must be pinned.

        Raises:
            BusyError: it takes too long.
            RefusedError: it is damaged.
        """
        key = (slot.rank, slot.index)
        if not self.changed.wait_for(lambda: self.sealed.get(key, (-1, ""))[0] == slot.epoch, wait_s):
            raise BusyError(f"{slot.name} of rank {slot.rank} has not been hashed after {wait_s:g} s")
        reason = self.sealed[key][1]
        if reason:
            raise RefusedError(f"{slot.name} of rank {slot.rank}: {reason}")
        return arena_memory.read_only(self.handles[slot.generation])

    def drop(self, rank: int, name: CheckpointName) -> None:
        """Forget a checkpoint. Raises RefusedError."""
        slot = self.table.drop(rank, name)
        arena_memory.clear_header(self.handles[slot.generation])

    def rows(self) -> dict[str, list[list[int]]]:
        """By rank: incarnation, step and size of the world of what is complete, oldest first."""
        return {
            str(rank): sorted([slot.name.incarnation, slot.name.step, slot.world_size]
                              for slot in slots if slot.name is not None)
            for rank, slots in self.table.slots.items()
        }

    @property
    def allocated_bytes(self) -> int:
        """Of all blocks."""
        return sum(slot.size_bytes for slot in self.table.all())

    def release(self, generation: int) -> None:
        """Let go of a block."""
        handle = self.handles.pop(generation, None)
        if handle is not None:
            os.close(handle)


def _hash(
    handle: int, header: Header, is_wanted: Callable[[], bool], hash_large: Callable[[memoryview], bytes]
) -> list[bytes] | None:
    meta, layout = arena_memory.read_meta(handle, header)
    mapping = arena_memory.map_block(handle, writable=False)
    digests = []
    with mapping, memoryview(mapping) as view:
        for shard, offset in zip(meta.shards, layout.shard_offsets, strict=True):
            if not is_wanted():
                return None
            size_bytes = shard.nbytes
            with view[offset:offset + size_bytes] as part:
                digests.append(hash_large(part) if size_bytes > LARGE_BYTES else arena_memory.hash_range(part))
    return digests
