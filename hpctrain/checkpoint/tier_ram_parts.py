"""The parts in this node's memory, for a restore (adapter over a keeper).

Those of its own ranks (tier ``ram``) and the copies of another node's (tier ``peer``). Needs no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import TypeVar

from hpctrain.checkpoint.arena_reader import ArenaCheckpoint
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.names import CheckpointName

T = TypeVar("T")

_TIERS = {"own": "ram", "peer": "peer"}


class MemoryParts:
    """A :class:`hpctrain.checkpoint.parts.PartTier`.

    Args:
        connection: gives a connection that has joined; the same one until it fails.
        store: of the keeper: ``own`` or ``peer``.
        incarnation: of this start; an older one may drop nothing.
        failed: told of a request that failed.
    """

    def __init__(
        self, connection: Callable[[], KeeperClient], store: str, incarnation: int, *,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        self._connection, self._store, self._incarnation, self._failed = connection, store, incarnation, failed

    @property
    def tier(self) -> str:
        """``ram`` or ``peer``."""
        return _TIERS[self._store]

    def holdings(self) -> Mapping[CheckpointName, Mapping[int, int]]:
        """By checkpoint, the ranks whose part is complete here, each with the size of the world that saved it."""
        try:
            rows = self._ask(lambda client: client.request("holdings"))[self._store]
        except (WireError, RefusedError):
            return {}
        found: dict[CheckpointName, dict[int, int]] = {}
        for rank, names in rows.items():
            for incarnation, step, world_size in names:
                found.setdefault(CheckpointName(incarnation, step), {})[int(rank)] = world_size
        return found

    def open(self, name: CheckpointName, rank: int) -> ArenaCheckpoint:
        """Open a part; its shards are verified while they are read. Close it soon: its memory is not reused meanwhile.

        Raises:
            ValueError: it is damaged.
            OSError: its memory cannot be mapped.
            RefusedError: it is not here.
            WireError: the keeper is gone.
        """
        return self._ask(lambda client: ArenaCheckpoint(client, rank, name, verify=False, store=self._store))

    def drop(self, name: CheckpointName) -> None:
        """Forget every part of a checkpoint here, as far as that is possible."""
        for rank in self.holdings().get(name, {}):
            with contextlib.suppress(WireError, RefusedError):
                self._connection().request("drop", rank=rank, incarnation=self._incarnation, store=self._store,
                                           name=[name.incarnation, name.step])

    def _ask(self, question: Callable[[KeeperClient], T]) -> T:
        """Ask again, once, over a new connection: a keeper on a busy node may be late, and what is not heard of counts as
        lost. One that is gone refuses the new connection at once.
        """
        for last in (False, True):
            try:
                return question(self._connection())
            except WireError as error:
                self._failed(error)
                if last:
                    raise
            except RefusedError as error:
                self._failed(error)
                raise
        raise AssertionError("the second try returns or raises")
