"""A save that training waits for: all ranks write a store themselves (service).

Used where there is no RAM tier, and where a save must be durable and the writer does not deliver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hpctrain.checkpoint.capture import Capture
from hpctrain.checkpoint.commit import Committer, discard
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import Ranks, error_of
from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.store import Store

Collect = Callable[[], tuple[Capture, str]]
"""Makes a rank's share of the tensors, and the rest of its state as JSON."""


class SyncWriter:
    """Writes whole checkpoints to one store, all ranks together.

    Args:
        store: claimed by ``incarnation``.
    """

    def __init__(self, store: Store, incarnation: int, ranks: Ranks, retention: Retention) -> None:
        self._store, self._ranks, self._retention = store, ranks, retention
        self._committer = Committer(store, incarnation)

    def save(
        self, name: CheckpointName, collect: Collect, *, time: float, reason: str, world: Mapping[str, Any]
    ) -> tuple[str, int]:
        """Write, commit, prune; a collective call. Every rank returns the same error ("" for none) and size.

        Raises:
            FencedError: a newer incarnation has taken over: these ranks must end.
        """
        error, size_bytes = self._write(name, collect, time=time, reason=reason, world=world)
        if error:
            self._ranks.on_first(lambda: discard(self._store, name))
        else:
            self._ranks.on_first(lambda: self._committer.prune(self._retention))
        return error, size_bytes

    def _write(
        self, name: CheckpointName, collect: Collect, *, time: float, reason: str, world: Mapping[str, Any]
    ) -> tuple[str, int]:
        error = self._ranks.on_first(lambda: self._committer.prepare(name))
        if error:
            return error, 0
        collected: list[tuple[Capture, str]] = []
        error = self._ranks.first_error(error_of(lambda: collected.append(collect())))
        if error:
            return error, 0
        written: list[Share] = []
        captured, own = collected[0]
        error = error_of(lambda: written.append(self._store.write_share(
            name, self._ranks.rank, captured.buffers(), own, aliases=captured.aliases, replicated=captured.fingerprint)))
        gathered = self._ranks.gather((error, written))
        return self._ranks.on_first(
            lambda: self._committer.commit(name, gathered, time=time, reason=reason, world=world)
        )
