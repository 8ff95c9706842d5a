"""Orders for tiers of whole checkpoints (service over a :class:`Store`).

A share is written, then told of in a file. Rank 0's order ends when all shares of its attempt are told of and committed,
or one has failed, or its patience ends. That wait is a thing to be asked again and again, so that the tier's thread goes on
with orders of other ranks of the node meanwhile. docs/checkpoint-format.md is the specification.
"""

from __future__ import annotations

import contextlib
import errno
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from hpctrain.checkpoint.commit import Committer, FencedError, discard
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.names import COMMIT, failed_file, share_file
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.share_text import failed_text, read_text, share_text
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.writer_order import Ending, Notify, Order, done, failed
from hpctrain.checkpoint.writer_source import FAILURES, error_text, write_from_memory
from hpctrain.clock import Clock
from hpctrain.errors import StorageError

PROBES = 32
"""Ranks without an answer that are asked for at most, each time that shares are looked for."""

TRANSIENT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR})
"""What a network file system says when its server changes or blinks: a share is then written once more. A full, read-only or
forbidden one stays so."""
RETRY_S = 0.5
"""Before that."""

Result = dict[str, Any]


class StoreWriter:
    """Carries out orders on stores.

    Args:
        open_store: path or URL to tier.
    """

    def __init__(
        self, client: KeeperClient, open_store: Callable[[str], Store], clock: Clock, notify: Notify
    ) -> None:
        self._client, self._open_store, self._clock, self._notify = client, open_store, clock, notify
        self._stores: dict[str, Store] = {}

    def begin(self, order: Order) -> Result | Commit:
        """Write a share; rank 0's order then is a :class:`Commit` to be asked.

        Raises:
            WireError: the keeper is gone.
        """
        started = self._clock.monotonic()
        try:
            store = self._store(order.root)
            if _exists(store, order):
                return done(seconds=0.0, size_bytes=0, committed=True)  # its writer died before it could tell
            share = self._share_with_retry(store, order)
        except FencedError as error:
            return failed(str(error), overtaken=True)
        except FAILURES as error:
            self._tell_others(order, error_text(error))
            return failed(error_text(error), seconds=self._clock.monotonic() - started)
        if order.commit is not None:
            return Commit(store, order, order.commit, share, clock=self._clock, started_s=started, notify=self._notify)
        return done(seconds=self._clock.monotonic() - started, size_bytes=_size(share))

    def _share_with_retry(self, store: Store, order: Order) -> Share:
        """An object store has retried each request by itself when it gives up."""
        try:
            return self._share(store, order)
        except (OSError, StorageError) as error:
            if order.tier != "shared" or not _is_transient(error):
                raise
        self._clock.sleep(RETRY_S)
        return self._share(store, order)

    def _share(self, store: Store, order: Order) -> Share:
        error = Committer(store, order.name.incarnation).fence_error()
        if error:
            raise StorageError(error, where=store.where)
        store.prepare(order.name)
        store.remove_file(order.name, failed_file(order.rank, order.attempt))

        def write(tensors: Iterable[tuple[Shard, Any]], own: str, aliases: Mapping[str, str], replicated: str) -> Share:
            return store.write_share(order.name, order.rank, tensors, own, aliases=aliases, replicated=replicated)

        share = write_from_memory(self._client, order, write)
        text = share_text(order.name, order.attempt, share)
        store.write_file(order.name, share_file(order.rank, order.attempt), text)
        return share

    def _tell_others(self, order: Order, error: str) -> None:
        """So that rank 0's writer need not wait for its patience to end; if this fails too, it waits."""
        with contextlib.suppress(*FAILURES):
            text = failed_text(order.name, order.rank, order.attempt, error)
            self._store(order.root).write_file(order.name, failed_file(order.rank, order.attempt), text)

    def _store(self, root: str) -> Store:
        if root not in self._stores:
            self._stores[root] = self._open_store(root)
        return self._stores[root]


class Commit:
    """A checkpoint of which rank 0's share is written and others may not be yet."""

    def __init__(
        self, store: Store, order: Order, ending: Ending, share: Share, *, clock: Clock, started_s: float, notify: Notify
    ) -> None:
        self.order = order
        self._store, self._ending, self._clock, self._notify = store, ending, clock, notify
        self._started_s, self._deadline_s = started_s, clock.monotonic() + ending.patience_s
        self._own = share
        self._found = {order.rank: share}
        self._missing = deque(rank for rank in range(ending.world_size) if rank != order.rank)
        self._problem = ""
        self._size_bytes = 0
        self._state: Literal["waiting", "saved", "failed", "left"] = "waiting"

    def ask(self) -> Result | None:
        """Look for shares; commit when all are there. None while that takes."""
        try:
            error = self._step()
        except FencedError as fence:
            self._state = "left"  # what is there now belongs to the newer incarnation
            return failed(str(fence), seconds=self._seconds(), overtaken=True)
        except FAILURES as failure:
            error = error_text(failure)
        if error is None:
            return None
        if error:
            self._state = "failed"
            return failed(error, seconds=self._seconds())
        self._state = "saved"
        return done(seconds=self._seconds(), size_bytes=_size(self._own), committed=True)

    def after(self) -> None:
        """Tell and tidy up; only when the keeper knows the result.

        From then on nobody takes this order up again, which might take what is being removed for whole.
        """
        name, evidence = self.order.name, {"checkpoint": str(self.order.name), "tier": self.order.tier,
                                           "cause": self._ending.reason, "seconds": round(self._seconds(), 4)}
        if self._state == "failed":
            discard(self._store, name)
        if self._state != "saved":
            return
        rate = self._size_bytes / max(self._seconds(), 1e-6)
        evidence |= {"size_bytes": self._size_bytes, "bytes_per_s": round(rate)}
        self._notify("checkpoint.saved", f"{name} ({self._ending.reason})", name.step, evidence)
        for rank in self._found:
            with contextlib.suppress(*FAILURES):
                self._store.remove_file(name, share_file(rank, self.order.attempt))
        committer = Committer(self._store, name.incarnation)
        committer.tidy(name)
        if self._ending.retention is not None:
            committer.prune(self._ending.retention)

    def _step(self) -> str | None:
        """Why there is no checkpoint, "" when there is one, None while that is open."""
        committer = Committer(self._store, self.order.name.incarnation)
        self._problem = committer.fence_error()  # a newer incarnation may have come: no use in waiting any longer
        if not self._problem:
            error = self._look()
            if error:
                return error
            if not self._missing:
                return self._commit(committer)
        if self._clock.monotonic() < self._deadline_s:
            return None
        ranks = ", ".join(map(str, sorted(self._missing)[:8])) + (", ..." if len(self._missing) > 8 else "")
        waited = f"after {self._ending.patience_s:g} s"
        return f"{self._problem} ({waited})" if self._problem else f"no share of rank {ranks} {waited}"

    def _look(self) -> str:
        """The error of a rank, if one tells of one."""
        misses = 0
        for _ in range(len(self._missing)):
            if misses == PROBES:
                break
            rank = self._missing.popleft()
            try:
                answer = self._answer_of(rank)
            except OSError as error:
                self._problem, answer = error_text(error), None
            except ValueError as error:
                answer = f"its share is {error}"
            if isinstance(answer, str):
                return f"rank {rank}: {answer}"
            if answer is None:
                misses += 1
                self._missing.append(rank)
            else:
                self._found[rank] = answer
        return ""

    def _answer_of(self, rank: int) -> Share | str | None:
        name, attempt = self.order.name, self.order.attempt
        for file in (share_file(rank, attempt), failed_file(rank, attempt)):
            text = self._store.read_file(name, file)
            if text is not None:
                return read_text(text, name, rank, attempt)
        return None

    def _commit(self, committer: Committer) -> str:
        name, ending = self.order.name, self._ending
        if _exists(self._store, self.order):
            return ""  # the ranks themselves have written it meanwhile, since this took so long
        sizes = self._store.sizes(name)
        for share in self._found.values():
            for file in share.files:
                # What somebody has removed meanwhile must not become part of a checkpoint.
                if sizes.get(file.name) != file.size_bytes:
                    return f"rank {share.rank}: {file.name} is not there any more"
        shares = [("", [self._found[rank]]) for rank in sorted(self._found)]
        error, self._size_bytes = committer.commit(name, shares, time=ending.time, reason=ending.reason, world=ending.world)
        return error

    def _seconds(self) -> float:
        return self._clock.monotonic() - self._started_s


def _is_transient(error: Exception) -> bool:
    reason = error if isinstance(error, OSError) else error.__cause__
    return isinstance(reason, OSError) and reason.errno in TRANSIENT


def _exists(store: Store, order: Order) -> bool:
    if store.read_file(order.name, COMMIT) is None:
        return False
    store.open(order.name)
    return True


def _size(share: Share) -> int:
    return sum(file.size_bytes for file in share.files)
