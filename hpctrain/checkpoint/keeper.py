"""Keeps the memory of a node's ranks when they die (service).

Answers one request at a time per connection; requests of several connections are answered at the same time, by one thread
each. The lock is never held while memory is allocated, hashed or waited for.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hpctrain.checkpoint import arena_memory, memory_budget
from hpctrain.checkpoint.arena import Header, block_bytes
from hpctrain.checkpoint.arena_memory import BlockError
from hpctrain.checkpoint.keeper_slots import BusyError, OvertakenError, RefusedError, Slot, SlotTable
from hpctrain.checkpoint.keeper_tasks import TaskBoard
from hpctrain.checkpoint.memory_budget import Limit
from hpctrain.checkpoint.names import CheckpointName

MakeBlock = Callable[[int, Callable[[int], str]], int]
Message = dict[str, Any]
Reply = tuple[Message, "int | None"]
"""The answer, and a descriptor to send along, which the caller closes."""


class NoMemoryError(RefusedError):
    """The node has not got the memory; the message carries the arithmetic."""


KINDS: dict[str, type[RefusedError]] = {
    "overtaken": OvertakenError, "busy": BusyError, "memory": NoMemoryError, "refused": RefusedError,
}
"""How a refusal is named on the wire."""


@dataclass
class _Memory:
    """The blocks behind the slots."""

    handles: dict[int, int] = field(default_factory=dict)  # generation -> descriptor
    made: int = 0
    pending_bytes: int = 0


class Keeper:
    """The requests that clients make.

    Args:
        read_limits: what bounds memory now.
        make_block: allocates.
    """

    def __init__(
        self, read_limits: Callable[[], Sequence[Limit]], make_block: MakeBlock = arena_memory.make_block
    ) -> None:
        self._read_limits, self._make_block = read_limits, make_block
        self._changed = threading.Condition()
        self._table = SlotTable()
        self._tasks = TaskBoard()
        self._memory = _Memory()
        self._pins: dict[int, tuple[int, Slot]] = {}
        self._pin_count = 0
        self._sealed: dict[tuple[int, int], tuple[int, str]] = {}  # (rank, slot) -> (epoch, what is wrong or "")
        self._to_seal: queue.SimpleQueue[tuple[Slot, int]] = queue.SimpleQueue()

    def handle(self, connection: int, message: Message) -> Reply:
        """Answer one request; a refusal is an answer, too."""
        operations: dict[str, Callable[[int, Message], Reply]] = {
            "join": self._join, "begin": self._begin, "commit": self._commit, "holdings": self._holdings,
            "open": self._open, "close": self._close, "drop": self._drop, "persist": self._persist,
            "persisted": self._persisted, "take": self._take, "finish": self._finish,
        }
        try:
            operation = operations.get(str(message.get("op")))
            if operation is None:
                raise RefusedError(f"there is no request {message.get('op')!r}")
            return operation(connection, message)
        except RefusedError as error:
            kind = next(kind for kind, known in KINDS.items() if isinstance(error, known))
            return {"error": str(error), "kind": kind}, None
        except (KeyError, TypeError, ValueError, OSError) as error:
            return {"error": f"{type(error).__name__}: {error}", "kind": "refused"}, None

    def leave(self, connection: int) -> None:
        """A client is gone."""
        with self._changed:
            self._table.leave(connection)
            for pin in [pin for pin, (owner, _) in self._pins.items() if owner == connection]:
                self._unpin(pin)
            self._tasks.leave(connection)
            self._changed.notify_all()

    def seal_forever(self) -> None:
        """Hash what is committed, in the order of the commits; run this in a thread of its own."""
        with suppress(OSError, AttributeError):
            # Only this thread: training has the first claim on the cores.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while True:
            slot, epoch = self._to_seal.get()
            self._seal(slot, epoch)

    # --- filling --------------------------------------------------------------------------------------------------

    def _join(self, connection: int, message: Message) -> Reply:
        with self._changed:
            dropped = self._table.join(
                connection, int(message["rank"]), int(message["incarnation"]), int(message["slots"])
            )
            for generation in dropped:
                self._release(generation)
            return {"pid": os.getpid()}, None

    def _begin(self, connection: int, message: Message) -> Reply:
        need = block_bytes(int(message["size_bytes"]))
        with self._changed:
            slot = self._table.lease(connection, [_name(item) for item in message.get("keep", ())])
            epoch = slot.epoch
            if slot.generation and slot.size_bytes < need:
                self._release(slot.generation)
                slot.generation, slot.size_bytes = 0, 0
            if slot.generation:
                arena_memory.clear_header(self._memory.handles[slot.generation])
            else:
                self._reserve(slot, need)
        if not slot.generation:
            self._allocate(slot, epoch, connection, need)
        with self._changed:
            self._still_leased(slot, epoch, connection)
            handle = None
            if slot.generation not in message.get("have", ()):
                handle = os.dup(self._memory.handles[slot.generation])
            return {"slot": slot.index, "generation": slot.generation, "size_bytes": slot.size_bytes}, handle

    def _reserve(self, slot: Slot, need: int) -> None:
        reason = self._objection(slot, need, self._memory.pending_bytes)
        if reason:
            slot.lease = None
            raise NoMemoryError(reason)
        self._memory.pending_bytes += need

    def _objection(self, slot: Slot, need: int, pending_bytes: int = 0) -> str:
        what = f"a block for slot {slot.index} of rank {slot.rank} in the RAM tier"
        return memory_budget.refusal(need, self._read_limits(), what=what, pending_bytes=pending_bytes)

    def _allocate(self, slot: Slot, epoch: int, connection: int, need: int) -> None:
        """Without the lock: the kernel clears gigabytes here."""
        handle: int | None = None
        reason = ""
        try:
            handle = self._make_block(need, lambda rest: self._objection(slot, rest))
        except BlockError as error:
            reason = str(error)
        with self._changed:
            self._memory.pending_bytes -= need
            if handle is None:
                if slot.epoch == epoch:
                    slot.lease = None
                raise NoMemoryError(reason)
            try:
                self._still_leased(slot, epoch, connection)
            except OvertakenError:
                os.close(handle)
                raise
            self._memory.made += 1
            self._memory.handles[self._memory.made] = handle
            slot.generation, slot.size_bytes = self._memory.made, need

    def _still_leased(self, slot: Slot, epoch: int, connection: int) -> None:
        if slot.epoch != epoch or slot.lease != connection:
            raise OvertakenError("a newer start of this rank has taken over; this process may no longer save")

    def _commit(self, connection: int, message: Message) -> Reply:
        name = _name(message["name"])
        header = Header(
            step=name.step, incarnation=name.incarnation, world_size=int(message["world_size"]),
            meta_bytes=int(message["meta_bytes"]), shard_count=int(message["shard_count"]),
            seal_offset=int(message["seal_offset"]), data_offset=int(message["data_offset"]),
            size_bytes=int(message["size_bytes"]), meta_xxh3=bytes.fromhex(message["meta_xxh3"]),
        )
        with self._changed:
            slot = self._table.commit(connection, int(message["slot"]), name, header.world_size)
            arena_memory.write_header(self._memory.handles[slot.generation], header)
            self._to_seal.put((slot, slot.epoch))
            self._changed.notify_all()
            return {}, None

    # --- hashing --------------------------------------------------------------------------------------------------

    def _seal(self, slot: Slot, epoch: int) -> None:
        with self._changed:
            if slot.epoch != epoch or slot.name is None:
                return  # overwritten already: the newest is what counts
            handle = os.dup(self._memory.handles[slot.generation])
        reason, digests, header = "", None, None
        try:
            header = arena_memory.read_header(handle)
            digests = self._hash(handle, header, slot, epoch)
        except (ValueError, OSError) as error:
            reason = str(error)
        with self._changed:
            if slot.epoch == epoch and slot.name is not None:
                if header is not None and digests is not None:
                    arena_memory.write_header(handle, arena_memory.write_seal(handle, header, digests))
                self._sealed[slot.rank, slot.index] = (epoch, reason)
                self._changed.notify_all()
        os.close(handle)

    def _hash(self, handle: int, header: Header, slot: Slot, epoch: int) -> list[bytes] | None:
        meta, layout = arena_memory.read_meta(handle, header)
        mapping = arena_memory.map_block(handle, writable=False)
        digests = []
        with mapping, memoryview(mapping) as view:
            for shard, offset in zip(meta.shards, layout.shard_offsets, strict=True):
                if slot.epoch != epoch:
                    return None
                with view[offset:offset + shard.nbytes] as part:
                    digests.append(arena_memory.hash_range(part))
        return digests

    # --- reading --------------------------------------------------------------------------------------------------

    def _holdings(self, _connection: int, _message: Message) -> Reply:
        with self._changed:
            held = self._table.holdings()
            common = self._table.newest_common()
            used = sum(slot.size_bytes for slot in self._table.all())
            return {
                "ranks": {str(rank): [[name.incarnation, name.step] for name in names] for rank, names in held.items()},
                "whole": [[name.incarnation, name.step] for name in self._table.whole()],
                "common": None if common is None else [common.incarnation, common.step],
                "incarnation": self._table.incarnation, "allocated_bytes": used,
            }, None

    def _open(self, connection: int, message: Message) -> Reply:
        with self._changed:
            slot = self._table.find(int(message["rank"]), _name(message["name"]))
            slot.pins += 1
            self._pin_count += 1
            pin = self._pin_count
            self._pins[pin] = (connection, slot)
            try:
                self._wait_sealed(slot, float(message.get("wait_s", 60)))
                return {"pin": pin}, arena_memory.read_only(self._memory.handles[slot.generation])
            except BaseException:
                self._unpin(pin)
                raise

    def _wait_sealed(self, slot: Slot, wait_s: float) -> None:
        key = (slot.rank, slot.index)
        if not self._changed.wait_for(lambda: self._sealed.get(key, (-1, ""))[0] == slot.epoch, wait_s):
            raise BusyError(f"{slot.name} of rank {slot.rank} has not been hashed after {wait_s:g} s")
        reason = self._sealed[key][1]
        if reason:
            raise RefusedError(f"{slot.name} of rank {slot.rank}: {reason}")

    def _close(self, connection: int, message: Message) -> Reply:
        with self._changed:
            pin = int(message["pin"])
            if self._pins.get(pin, (None, None))[0] != connection:
                raise RefusedError(f"there is no open checkpoint {pin}")
            self._unpin(pin)
            return {}, None

    def _unpin(self, pin: int) -> None:
        self._pins.pop(pin)[1].pins -= 1

    def _drop(self, _connection: int, message: Message) -> Reply:
        with self._changed:
            self._table.check(int(message["incarnation"]))
            slot = self._table.drop(int(message["rank"]), _name(message["name"]))
            arena_memory.clear_header(self._memory.handles[slot.generation])
            return {}, None

    # --- durable writing ------------------------------------------------------------------------------------------

    def _persist(self, _connection: int, message: Message) -> Reply:
        with self._changed:
            self._table.check(int(message["incarnation"]))
            rank, name = int(message["rank"]), _name(message["name"])
            self._table.find(rank, name)
            replaced = self._tasks.post(rank, name, dict(message["task"]))
            self._changed.notify_all()
            return {"replaced": None if replaced is None else [replaced.incarnation, replaced.step]}, None

    def _persisted(self, _connection: int, message: Message) -> Reply:
        with self._changed:
            return self._tasks.report(int(message["rank"])), None

    def _take(self, connection: int, message: Message) -> Reply:
        with self._changed:
            self._changed.wait_for(self._tasks.has_work, float(message.get("wait_s", 1)))
            task = self._tasks.take(connection)
            if task is None:
                return {}, None
            return {"rank": task.rank, "name": [task.name.incarnation, task.name.step], "task": task.order}, None

    def _finish(self, connection: int, message: Message) -> Reply:
        with self._changed:
            self._tasks.finish(connection, int(message["rank"]), dict(message["result"]))
            self._changed.notify_all()
            return {}, None

    def _release(self, generation: int) -> None:
        handle = self._memory.handles.pop(generation, None)
        if handle is not None:
            os.close(handle)


def _name(pair: Sequence[int]) -> CheckpointName:
    incarnation, step = pair
    return CheckpointName(int(incarnation), int(step))
