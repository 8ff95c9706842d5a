"""The RAM tier as one rank sees it (service).

Whatever goes wrong here degrades the tier and is told in the result; it never fails a training step. A degraded tier is
tried again after 1 s, then 2, 4 ... up to a minute.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xxhash

from hpctrain.checkpoint import arena, arena_memory
from hpctrain.checkpoint.arena import Layout
from hpctrain.checkpoint.arena_reader import ArenaCheckpoint
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import BusyError, OvertakenError, RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.tier_ram_copy import ArenaBlock
from hpctrain.checkpoint.tier_ram_parts import MemoryParts
from hpctrain.clock import Clock, SystemClock

ALLOCATION_RATE = 256 * 1024 * 1024
"""Bytes per second that even a slow machine clears; how long the keeper may take to make a block follows from it."""

_RETRY_FIRST_S, _RETRY_LIMIT_S = 1.0, 60.0

Item = tuple[Shard, torch.Tensor]


@dataclass(frozen=True, slots=True)
class StageResult:
    """How one rank's copy into memory ended.

    Attributes:
        stall_s: seconds that training stood still.
        size_bytes: of the shards; 0 if there was an error.
        error: why there is no copy; "" when it is complete.
        overtaken: a newer incarnation is at work: this process must end.
        allocated: memory was allocated, so that the stall is not what later ones will be.
    """

    name: CheckpointName
    stall_s: float
    size_bytes: int
    error: str = ""
    overtaken: bool = False
    allocated: bool = False

    @property
    def ok(self) -> bool:
        """The checkpoint of this rank is complete in memory."""
        return not self.error


@dataclass
class _Plan:
    """What stays the same from save to save."""

    shards: list[Shard]
    text: bytes
    layout: Layout
    room_bytes: int
    data_bytes: int


class RamTier:
    """One rank's checkpoints in its node's memory.

    Args:
        connect: makes a connection to this node's keeper (starting one, where that is nobody else's business).
        rank: of this process.
        world_size: of the job.
        incarnation: of this start.
        slots: checkpoints that are held at the same time; one more than are kept, since one is being filled. 2 keeps the
            last one, 2 + k also k more before it, while the node's memory allows.
        spares: slots that get memory, where there is some left, when all others are needed, such as while one is being
            written to a disk: the next save need not wait for that.
    """

    def __init__(
        self, connect: Callable[[], KeeperClient], *, rank: int, world_size: int, incarnation: int, slots: int = 2,
        spares: int = 1, clock: Clock | None = None,
    ) -> None:
        if slots < 2:
            raise ValueError(f"the RAM tier needs 2 slots, one to keep and one to fill, not {slots}")
        self._connect, self._rank, self._world_size, self._incarnation = connect, rank, world_size, incarnation
        self._slots, self._spares, self._clock = slots, spares, clock or SystemClock()
        self._client: KeeperClient | None = None
        self._blocks: dict[int, tuple[int, ArenaBlock]] = {}  # slot -> (generation, memory)
        self._plan: _Plan | None = None
        self._failures, self._retry_at = 0, 0.0
        self.error = ""

    @property
    def is_degraded(self) -> bool:
        """The last use failed; :attr:`error` says why."""
        return bool(self.error)

    def stage(
        self, step: int, items: Sequence[Item], own_state: str, *, reason: str = "", keep: Collection[CheckpointName] = (),
        world: Mapping[str, Any] | None = None, share: Mapping[str, Any] | None = None,
    ) -> StageResult:
        """Copy this rank's shards and state into memory and commit them there.

        Args:
            items: shards with tensors of the same elements, on the CPU or a GPU.
            own_state: JSON of what is not a tensor.
            keep: checkpoints that must not be overwritten: the newest that all ranks of the job hold.
            world: layout of the ranks.
            share: see :func:`hpctrain.checkpoint.arena.meta_text`.
        """
        name, started = CheckpointName(self._incarnation, step), self._clock.monotonic()
        if self.is_degraded and started < self._retry_at:
            return StageResult(name, 0.0, 0, f"waiting {self._retry_at - started:.0f} s before another try: {self.error}")
        try:
            about = {"world_size": self._world_size, **(world or {})}
            plan, meta = self._prepare([shard for shard, _ in items],
                                       lambda text: arena.meta_text(text, own_state, about, reason, share))
            allocated = self._fill(name, items, plan, meta, keep)
        except BusyError as error:
            # Nothing is wrong; a reader or the disk is slower than the saves are frequent.
            return StageResult(name, self._clock.monotonic() - started, 0, str(error))
        except OvertakenError as error:
            return StageResult(name, self._clock.monotonic() - started, 0, str(error), overtaken=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on and the caller hears of it
            self._degrade(error)
            return StageResult(name, self._clock.monotonic() - started, 0, self.error)
        self.error, self._failures = "", 0
        return StageResult(name, self._clock.monotonic() - started, plan.data_bytes, allocated=allocated)

    def complete_steps(self) -> list[CheckpointName]:
        """What this rank has complete in memory, oldest first; nothing when the tier is degraded."""
        return self.holdings().get(self._rank, [])

    def holdings(self) -> dict[int, list[CheckpointName]]:
        """What every rank, also one that is gone, has complete in this node's memory."""
        try:
            answer = self._connection().request("holdings")
        except (WireError, RefusedError) as error:
            self._degrade(error)
            return {}
        return {int(rank): [CheckpointName(*pair) for pair in names] for rank, names in answer["ranks"].items()}

    def whole(self) -> list[CheckpointName]:
        """Checkpoints of which the parts of all ranks are in this node's memory, oldest first."""
        try:
            return [CheckpointName(*pair) for pair in self._connection().request("holdings")["whole"]]
        except (WireError, RefusedError) as error:
            self._degrade(error)
            return []

    def read(self, name: CheckpointName, rank: int | None = None, *, verify: bool = True) -> ArenaCheckpoint:
        """Open a complete checkpoint, verified; close it soon, since its memory is not reused meanwhile.

        Args:
            rank: whose; None is our own.
            verify: see :class:`~hpctrain.checkpoint.arena_reader.ArenaCheckpoint`.

        Raises:
            ValueError: it is damaged.
            RefusedError: there is none.
            WireError: the keeper is gone.
        """
        return ArenaCheckpoint(self._connection(), self._rank if rank is None else rank, name, verify=verify)

    def drop(self, name: CheckpointName, rank: int | None = None) -> bool:
        """Forget a checkpoint; returns whether it was there and is gone."""
        try:
            self._connection().request("drop", rank=self._rank if rank is None else rank, incarnation=self._incarnation,
                                       name=[name.incarnation, name.step])
        except (WireError, RefusedError):
            return False
        return True

    def parts(self) -> MemoryParts:
        """What this node's memory holds of its own ranks, for a restore."""
        return MemoryParts(self._connection, "own", self._incarnation, failed=self._lost)

    def peer_parts(self) -> MemoryParts:
        """What this node's memory holds of another node's ranks."""
        return MemoryParts(self._connection, "peer", self._incarnation, failed=self._lost)

    def persist(
        self, name: CheckpointName, tier: str, task: Mapping[str, Any], rank: int | None = None, *, store: str = "own"
    ) -> str:
        """Ask the writer process to bring a checkpoint to a tier; returns why it will not, "" when it will.

        Args:
            tier: ``peer``, ``local``, ``shared`` or ``object``.
            task: what the writer needs to know.
            rank: whose; None is our own. A dead rank's last checkpoint is written as well as a living one's.
            store: ``peer`` for the copy of another node's rank.
        """
        try:
            self._connection().request("persist", tier=tier, rank=self._rank if rank is None else rank, task=dict(task),
                                       incarnation=self._incarnation, name=[name.incarnation, name.step], store=store)
        except (WireError, RefusedError) as error:
            self._lost(error)
            return str(error)
        return ""

    def persisted(self, tier: str, rank: int | None = None) -> dict[str, Any]:
        """What became of :meth:`persist`; see :meth:`hpctrain.checkpoint.keeper_tasks.TaskBoard.report`."""
        try:
            return self._connection().request("persisted", tier=tier, rank=self._rank if rank is None else rank)
        except (WireError, RefusedError) as error:
            self._lost(error)
            return {"waiting": None, "working": None, "result": None, "error": str(error)}

    def close(self) -> None:
        """Hang up. What is complete stays with the keeper."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self._let_go()

    # --- staging --------------------------------------------------------------------------------------------------

    def _fill(
        self, name: CheckpointName, items: Sequence[Item], plan: _Plan, meta: bytes, keep: Collection[CheckpointName]
    ) -> bool:
        client = self._connection()
        slot, block, allocated = self._begin(client, plan.layout.size_bytes, keep)
        block.copy_in(plan.shards, plan.layout.shard_offsets, [tensor for _, tensor in items])
        block.write(plan.layout.meta_offset, meta)
        client.request(
            "commit", slot=slot, name=[name.incarnation, name.step], world_size=self._world_size, meta_bytes=len(meta),
            shard_count=len(plan.shards), seal_offset=plan.layout.seal_offset, data_offset=plan.layout.data_offset,
            size_bytes=plan.layout.size_bytes, meta_xxh3=xxhash.xxh3_128_hexdigest(meta),
        )
        return allocated

    def _prepare(self, shards: list[Shard], write_meta: Callable[[bytes], bytes]) -> tuple[_Plan, bytes]:
        plan = self._plan
        text = plan.text if plan is not None and plan.shards == shards else arena.shards_text(shards)
        meta = write_meta(text)
        if plan is None or plan.shards != shards or len(meta) > plan.room_bytes:
            room = arena.meta_room(len(meta))
            sizes = [shard.nbytes for shard in shards]
            plan = _Plan(shards, text, arena.plan(sizes, room), room, sum(sizes))
            self._plan = plan
        return plan, meta

    def _begin(
        self, client: KeeperClient, size_bytes: int, keep: Collection[CheckpointName]
    ) -> tuple[int, ArenaBlock, bool]:
        have = [generation for generation, _ in self._blocks.values()]
        answer, handle = client.request_handle(
            "begin", size_bytes=size_bytes, keep=[[name.incarnation, name.step] for name in keep], have=have,
            extra_s=size_bytes / ALLOCATION_RATE,
        )
        slot, generation = int(answer["slot"]), int(answer["generation"])
        if handle is not None:
            try:
                # The old mapping first: two would count twice against an address-space limit.
                if slot in self._blocks:
                    self._blocks.pop(slot)[1].close()
                mapping = arena_memory.map_block(handle, writable=True)
                arena_memory.touch(mapping, 0, len(mapping))
                self._blocks[slot] = (generation, ArenaBlock(mapping))
            finally:
                os.close(handle)
        return slot, self._blocks[slot][1], handle is not None

    def _connection(self) -> KeeperClient:
        if self._client is None:
            client = self._connect()
            try:
                client.request("join", rank=self._rank, incarnation=self._incarnation, slots=self._slots,
                               spares=self._spares)
            except BaseException:
                client.close()
                raise
            self._client = client
            self._let_go()  # generations of another keeper may have the same numbers
        return self._client

    def _lost(self, error: Exception) -> None:
        """After a failed request: hang up when the keeper is gone.

        Its memory is let go, too: it would count twice until the next keeper's blocks are mapped in its place.
        """
        if isinstance(error, WireError) and self._client is not None:
            self._client.close()
            self._client = None
            self._let_go()

    def _let_go(self) -> None:
        for _, block in self._blocks.values():
            block.close()
        self._blocks.clear()

    def _degrade(self, error: Exception) -> None:
        self._lost(error)
        self._failures += 1
        self._retry_at = self._clock.monotonic() + min(_RETRY_FIRST_S * 2 ** (self._failures - 1), _RETRY_LIMIT_S)
        self.error = _describe(error)


def _describe(error: Exception) -> str:
    if isinstance(error, WireError):
        return f"the RAM tier's keeper: {error}"
    return str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
