"""Keeps the memory of a node's ranks when they die (service).

Answers one request at a time per connection; requests of several connections are answered at the same time, by one thread
each. The lock is never held while memory is allocated, hashed or waited for.

A request is ``{"op": ...}`` with these fields. ``store`` is ``own`` (where it is left out) or ``peer``: copies of the parts
of another node's ranks. ``name`` is ``[incarnation, step]``.

=============  ====================================================  ====================================================
op             fields                                                answer
=============  ====================================================  ====================================================
join           rank, incarnation, slots, spares, store               pid
begin          size_bytes, keep, have, store                         slot, generation, size_bytes; a descriptor
commit         slot, name and the fields of a header, store          -
holdings       -                                                     own, peer: {rank: [[incarnation, step, world size]]};
                                                                     ranks, whole, common, incarnation, allocated_bytes
open, close    rank, name, wait_s, store; pin                        pin and a descriptor; -
drop           rank, incarnation, name, store                        -
persist        tier, rank, incarnation, name, task, store            replaced
persisted      rank, tier                                            waiting, working, result; without tier, of each tier
take           tier, wait_s                                          tier, rank, name, task, store; nothing if there is none
finish         tier, rank, result                                    -
set_peer       node, addr, port                                      -
peer           -                                                     node ("" when there is none), addr, port
listening      addr, port                                            -; holds while the connection does
about          -                                                     pid, incarnation, listening: {addr, port} or null, peer
=============  ====================================================  ====================================================
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from hpctrain.checkpoint import arena_memory
from hpctrain.checkpoint.arena import DIGEST_BYTES, Header
from hpctrain.checkpoint.keeper_slots import BusyError, OvertakenError, RefusedError, Slot, SlotTable
from hpctrain.checkpoint.keeper_store import Budget, MakeBlock, NoMemoryError, Store
from hpctrain.checkpoint.keeper_tasks import Task, TaskBoard
from hpctrain.checkpoint.memory_budget import Limit
from hpctrain.checkpoint.names import CheckpointName

Message = dict[str, Any]
Reply = tuple[Message, "int | None"]
"""The answer, and a descriptor to send along, which the caller closes."""

OWN, PEER = "own", "peer"
KINDS: dict[str, type[RefusedError]] = {
    "overtaken": OvertakenError, "busy": BusyError, "memory": NoMemoryError, "refused": RefusedError,
}
"""How a refusal is named on the wire."""

_LET_PASS_S = 0.01
"""What a rank still has to ask for after a commit is answered first: training waits for that, for hashes nobody does."""

_NO_PEER: Message = {"node": "", "addr": "", "port": 0}


class Keeper:
    """The requests that clients make.

    Args:
        read_limits: what bounds memory now.
        make_block: allocates.
    """

    def __init__(
        self, read_limits: Callable[[], Sequence[Limit]], make_block: MakeBlock = arena_memory.make_block
    ) -> None:
        self._changed = threading.Condition()
        self._to_seal: queue.SimpleQueue[tuple[Store, Slot, int]] = queue.SimpleQueue()
        budget = Budget(read_limits, make_block)
        self._own = Store("the RAM tier", SlotTable(), budget, self._changed, self._to_seal)
        self._copies = Store("the copies of other nodes' ranks", SlotTable(of_copies=True), budget, self._changed,
                             self._to_seal)
        self._tasks = TaskBoard()
        self._pins: dict[int, tuple[int, Slot]] = {}
        self._pin_count = 0
        self._peer = _NO_PEER
        self._listening: dict[int, Message] = {}  # by connection

    def handle(self, connection: int, message: Message) -> Reply:
        """Answer one request; a refusal is an answer, too."""
        operations: dict[str, Callable[[int, Message], Reply]] = {
            "join": self._join, "begin": self._begin, "commit": self._commit, "holdings": self._holdings,
            "open": self._open, "close": self._close, "drop": self._drop, "persist": self._persist,
            "persisted": self._persisted, "take": self._take, "finish": self._finish,
            "set_peer": self._set_peer, "peer": self._ask_peer, "listening": self._listen, "about": self._about,
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
            for store in (self._own, self._copies):
                store.table.leave(connection)
            for pin in [pin for pin, (owner, _) in self._pins.items() if owner == connection]:
                self._unpin(pin)
            self._tasks.leave(connection)
            self._listening.pop(connection, None)
            self._changed.notify_all()

    def seal_forever(self) -> None:
        """Hash what is committed, in the order of the commits; run this in a thread of its own."""
        with ThreadPoolExecutor(1, "keeper-hash", _yield_cores) as hasher:
            while True:
                store, slot, epoch = self._to_seal.get()
                time.sleep(_LET_PASS_S)
                try:
                    store.seal(slot, epoch, lambda view: hasher.submit(arena_memory.hash_range, view).result())
                except Exception as error:  # noqa: BLE001 - whatever it is: the next ones must be hashed all the same
                    store.cannot_seal(slot, epoch, f"{type(error).__name__}: {error}")

    # --- filling --------------------------------------------------------------------------------------------------

    def _join(self, connection: int, message: Message) -> Reply:
        rank, incarnation = int(message["rank"]), int(message["incarnation"])
        with self._changed:
            # Of copies, too, those of ranks whose time is over: this node's own ranks know of newer ones.
            self._own.table.check(incarnation)
            self._store(message).join(
                connection, rank, incarnation, int(message["slots"]), int(message.get("spares", 0))
            )
            return {"pid": os.getpid()}, None

    def _begin(self, connection: int, message: Message) -> Reply:
        keep = [_name(item) for item in message.get("keep", ())]
        slot, handle = self._store(message).begin(connection, int(message["size_bytes"]), keep, message.get("have", ()))
        return {"slot": slot.index, "generation": slot.generation, "size_bytes": slot.size_bytes}, handle

    def _commit(self, connection: int, message: Message) -> Reply:
        name, store = _name(message["name"]), self._store(message)
        header = Header(
            step=name.step, incarnation=name.incarnation, world_size=int(message["world_size"]),
            meta_bytes=int(message["meta_bytes"]), shard_count=int(message["shard_count"]),
            seal_offset=int(message["seal_offset"]), data_offset=int(message["data_offset"]),
            size_bytes=int(message["size_bytes"]), meta_xxh3=bytes.fromhex(message["meta_xxh3"]),
            seal_xxh3=bytes.fromhex(message.get("seal_xxh3", "")) or bytes(DIGEST_BYTES),
        )
        with self._changed:
            self._own.table.check(name.incarnation)
            store.commit(connection, int(message["slot"]), name, header)
            self._changed.notify_all()
            return {}, None

    # --- reading --------------------------------------------------------------------------------------------------

    def _holdings(self, _connection: int, _message: Message) -> Reply:
        with self._changed:
            table = self._own.table
            common = table.newest_common()
            return {
                "own": self._own.rows(), "peer": self._copies.rows(),
                "ranks": {str(rank): [_pair(name) for name in names] for rank, names in table.holdings().items()},
                "whole": [_pair(name) for name in table.whole()],
                "common": None if common is None else _pair(common), "incarnation": table.incarnation,
                "allocated_bytes": self._own.allocated_bytes + self._copies.allocated_bytes,
            }, None

    def _open(self, connection: int, message: Message) -> Reply:
        store = self._store(message)
        with self._changed:
            slot = store.table.find(int(message["rank"]), _name(message["name"]))
            slot.pins += 1
            self._pin_count += 1
            pin = self._pin_count
            self._pins[pin] = (connection, slot)
            try:
                return {"pin": pin}, store.open(slot, float(message.get("wait_s", 60)))
            except BaseException:
                self._unpin(pin)
                raise

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
            self._own.table.check(int(message["incarnation"]))
            self._store(message).drop(int(message["rank"]), _name(message["name"]))
            return {}, None

    # --- orders ---------------------------------------------------------------------------------------------------

    def _persist(self, _connection: int, message: Message) -> Reply:
        with self._changed:
            self._own.table.check(int(message["incarnation"]))
            store = str(message.get("store", OWN))
            task = Task(str(message["tier"]), int(message["rank"]), _name(message["name"]), dict(message["task"]), store)
            self._store(message).table.find(task.rank, task.name)
            replaced = self._tasks.post(task)
            self._changed.notify_all()
            return {"replaced": None if replaced is None else _pair(replaced)}, None

    def _persisted(self, _connection: int, message: Message) -> Reply:
        rank, tier = int(message["rank"]), message.get("tier")
        with self._changed:
            if tier is None:
                return {**self._tasks.reports(rank)}, None
            return self._tasks.report(rank, str(tier)), None

    def _take(self, connection: int, message: Message) -> Reply:
        tier = str(message["tier"])
        with self._changed:
            self._changed.wait_for(lambda: self._tasks.has_work(tier), float(message.get("wait_s", 1)))
            task = self._tasks.take(connection, tier)
            if task is None:
                return {}, None
            return {"tier": task.tier, "rank": task.rank, "name": _pair(task.name), "task": task.order,
                    "store": task.store}, None

    def _finish(self, connection: int, message: Message) -> Reply:
        with self._changed:
            self._tasks.finish(connection, str(message["tier"]), int(message["rank"]), dict(message["result"]))
            self._changed.notify_all()
            return {}, None

    # --- the peer -------------------------------------------------------------------------------------------------

    def _set_peer(self, _connection: int, message: Message) -> Reply:
        with self._changed:
            node = str(message["node"])
            self._peer = _endpoint(message, node=node) if node else _NO_PEER
            return {}, None

    def _ask_peer(self, _connection: int, _message: Message) -> Reply:
        with self._changed:
            return dict(self._peer), None

    def _listen(self, connection: int, message: Message) -> Reply:
        with self._changed:
            self._listening[connection] = _endpoint(message)
            return {}, None

    def _about(self, _connection: int, _message: Message) -> Reply:
        with self._changed:
            newest = max(self._listening, default=None)
            return {
                "pid": os.getpid(), "incarnation": self._own.table.incarnation, "peer": dict(self._peer),
                "listening": None if newest is None else self._listening[newest],
            }, None

    def _store(self, message: Message) -> Store:
        store = message.get("store", OWN)
        if store not in (OWN, PEER):
            raise RefusedError(f"there is no store {store!r}")
        return self._own if store == OWN else self._copies


def _yield_cores() -> None:
    """Training has the first claim on the cores. Only for a thread that does next to nothing with the interpreter's lock:
    one that got no core while it holds that would keep every request waiting.
    """
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _endpoint(message: Message, **more: str) -> Message:
    return {**more, "addr": str(message["addr"]), "port": int(message["port"])}


def _name(pair: Sequence[int]) -> CheckpointName:
    incarnation, step = pair
    return CheckpointName(int(incarnation), int(step))


def _pair(name: CheckpointName) -> list[int]:
    return [name.incarnation, name.step]
