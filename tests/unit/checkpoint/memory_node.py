"""A node whose keeper is real but in this process, and parts in its memory without torch: to test what the writer does."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import xxhash

from hpctrain import process
from hpctrain.checkpoint import arena, arena_memory
from hpctrain.checkpoint.commit import claim
from hpctrain.checkpoint.keeper import KINDS, Keeper
from hpctrain.checkpoint.keeper_client import KeeperClient, make_secret, start_keeper
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.open_store import open_store
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.checkpoint.writer import TierWorker, Work
from hpctrain.checkpoint.writer_local import LocalWriter
from hpctrain.checkpoint.writer_order import STORES
from hpctrain.checkpoint.writer_store import StoreWriter
from hpctrain.clock import Clock, SystemClock

Item = tuple[Shard, bytes]


class InProcess:
    """A connection to a keeper in this process; a :class:`KeeperClient` as far as the writer can see."""

    def __init__(self, keeper: Keeper, number: int) -> None:
        self.keeper, self.number, self.is_open = keeper, number, True

    def request_handle(self, op: str, *, extra_s: float = 0.0, **fields: Any) -> tuple[dict[str, Any], int | None]:
        """Ask; see :meth:`KeeperClient.request_handle`."""
        if not self.is_open:
            raise WireError("the connection is closed")
        answer, handle = self.keeper.handle(self.number, {"op": op, **fields})
        if "error" in answer:
            raise KINDS[answer["kind"]](answer["error"])
        return answer, handle

    def request(self, op: str, *, extra_s: float = 0.0, **fields: Any) -> dict[str, Any]:
        """Ask for something that brings no descriptor."""
        return self.request_handle(op, **fields)[0]

    def close(self) -> None:
        """Hang up."""
        if self.is_open:
            self.is_open = False
            self.keeper.leave(self.number)


class Node:
    """One node: its keeper, parts in its memory, and writers of single tiers.

    Attributes:
        events: what writers have told of.
        blocks: descriptor of the memory of each part that was staged.
        clock: of writers in this process.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self.keeper, self.clock = Keeper(lambda: []), clock or SystemClock()
        self.events: list[tuple[str, str, int, Mapping[str, Any]]] = []
        self._count = 0
        threading.Thread(target=self.keeper.seal_forever, daemon=True).start()
        self.blocks: dict[tuple[int, CheckpointName], int] = {}

    def connect(self) -> KeeperClient:
        """A new connection."""
        self._count += 1
        return cast("KeeperClient", InProcess(self.keeper, self._count))

    def stage(
        self, rank: int, name: CheckpointName, items: Sequence[Item], own: str = "{}", *, world_size: int = 1,
        aliases: Mapping[str, str] | None = None, slots: int = 3,
    ) -> None:
        """Put a rank's part into memory, as a rank does."""
        client = self.connect()
        client.request("join", rank=rank, incarnation=name.incarnation, slots=slots)
        share = {"aliases": dict(aliases or {}), "replicated": ""}
        shards, world = arena.shards_text([shard for shard, _ in items]), {"world_size": world_size}
        meta = arena.meta_text(shards, own, world, "test", share)
        layout = arena.plan([shard.nbytes for shard, _ in items], arena.meta_room(len(meta)))
        answer, handle = client.request_handle("begin", size_bytes=layout.size_bytes, keep=[], have=[])
        assert handle is not None
        self.blocks[rank, name] = handle
        with arena_memory.map_block(handle, writable=True) as block:
            block[layout.meta_offset:layout.meta_offset + len(meta)] = meta
            for (_, data), offset in zip(items, layout.shard_offsets, strict=True):
                block[offset:offset + len(data)] = data
        client.request(
            "commit", slot=answer["slot"], name=[name.incarnation, name.step], world_size=world_size, meta_bytes=len(meta),
            shard_count=len(items), seal_offset=layout.seal_offset, data_offset=layout.data_offset,
            size_bytes=layout.size_bytes, meta_xxh3=xxhash.xxh3_128_hexdigest(meta),
        )
        client.close()

    def order(
        self, tier: str, rank: int, name: CheckpointName, root: Path | str, *, attempt: int = 1, world_size: int = 1,
        patience_s: float = 60.0, retention: Mapping[str, Any] | None = None, store: str = "own", **details: Any,
    ) -> None:
        """Post what a rank posts; rank 0's order on a store commits."""
        commit = None
        if rank == 0 and tier in STORES:
            commit = {"world_size": world_size, "world": {"world_size": world_size}, "time": 5.0, "reason": "test",
                      "retention": retention, "patience_s": patience_s}
        task = {"root": str(root), "attempt": attempt, "commit": commit, "retention": retention, **details}
        self.connect().request("persist", tier=tier, rank=rank, incarnation=name.incarnation,
                               name=[name.incarnation, name.step], task=task, store=store)

    def result(self, tier: str, rank: int) -> dict[str, Any] | None:
        """What became of the newest order that is over."""
        result: dict[str, Any] | None = self.connect().request("persisted", tier=tier, rank=rank)["result"]
        return result

    def worker(self, tier: str) -> TierWorker:
        """A writer of one tier."""
        client = self.connect()
        return TierWorker(tier, client, self.work(tier, client), self.note)

    def work(self, tier: str, client: KeeperClient) -> Work:
        """What carries out its orders."""
        if tier in STORES:
            return StoreWriter(client, open_store, self.clock, self.note)
        return LocalWriter(client, self.clock)

    def note(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        """Remember an event."""
        self.events.append((kind, reason, step, evidence))


class RealNode(Node):
    """The same with a keeper and a writer that are processes."""

    def __init__(self, name: str = "", secret: bytes = b"") -> None:
        self.name, self.secret, self.blocks, self.events = name, secret or make_secret(), {}, []
        self.keeper_process = start_keeper(self.secret, name)
        self.writer_process = self.start_writer()

    def start_writer(self, stderr: int | None = None) -> process.Popen[bytes]:
        """As a launcher does where there is no agent."""
        argv = [sys.executable, "-m", "hpctrain.checkpoint.writer_main", "--node", self.name, "--peer-bind", "127.0.0.1"]
        child = process.start(argv, stdin=process.PIPE, stdout=process.PIPE, stderr=stderr)
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(self.secret.hex().encode() + b"\n")
        child.stdin.close()
        assert b"ready\n" == child.stdout.readline()
        child.stdout.close()
        return child

    def connect(self) -> KeeperClient:
        """A new connection."""
        return KeeperClient(self.secret, self.name)

    def wait_for(self, tier: str, rank: int, wait_s: float = 60.0) -> dict[str, Any]:
        """The result of an order."""
        client, deadline = self.connect(), time.monotonic() + wait_s
        while time.monotonic() < deadline:
            report = client.request("persisted", tier=tier, rank=rank)
            if report["result"] and not report["working"] and not report["waiting"]:
                client.close()
                result: dict[str, Any] = report["result"]
                return result
            time.sleep(0.01)
        raise AssertionError(f"no result of {tier} for rank {rank}")

    def close(self) -> None:
        """End both processes."""
        for child in (self.writer_process, self.keeper_process):
            process.kill_group(child)
            child.wait(timeout=20)


def claimed(root: Path, incarnation: int = 0) -> SharedTier:
    """A shared tier that an incarnation of ranks has taken over."""
    tier = SharedTier(root)
    claim(tier, incarnation)
    return tier


def work_off(*workers: TierWorker, rounds: int = 200) -> None:
    """Let writers work, in turns, until none of them has anything to do."""
    for _ in range(rounds):
        taken = [worker.work_once(wait_s=0.0) for worker in workers]
        if not any(taken) and not any(worker.waits for worker in workers):
            return
    raise AssertionError("the writers do not come to an end")
