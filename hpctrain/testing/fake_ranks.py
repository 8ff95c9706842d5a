"""Ranks that are threads of one process: what all ranks do together, without processes and without ports."""

from __future__ import annotations

import contextlib
import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from hpctrain.checkpoint.ranks import LostRanksError, Ranks

T = TypeVar("T")

_PATIENCE_S = 60.0


class _Exchange:
    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size)
        self.values: list[bytes] = [b""] * world_size
        self.lines: dict[tuple[int, int], queue.Queue[Any]] = {
            (source, target): queue.Queue() for source in range(world_size) for target in range(world_size)}


class ThreadRanks(Ranks):
    """One of them. What is exchanged is pickled, as on real ranks."""

    def __init__(self, rank: int, world_size: int, exchange: _Exchange) -> None:
        self.rank, self.world_size = rank, world_size
        self._exchange, self._patience_s = exchange, _PATIENCE_S

    @property
    def group(self) -> Any:
        """There is none."""
        return None

    def everyone(self, value: T) -> list[T]:
        """What every rank passed, by rank, on every rank."""
        self._exchange.values[self.rank] = pickle.dumps(value)
        self._meet()
        found = [pickle.loads(text) for text in list(self._exchange.values)]  # noqa: S301 - made a moment ago, in this process
        self._meet()
        return found

    def broadcast(self, value: T) -> T:
        """What rank 0 passed."""
        return self.everyone(value if self.is_first else None)[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """What every rank passed, by rank, on rank 0; an empty list elsewhere."""
        found = self.everyone(value)
        return found if self.is_first else []

    def share(self, data: Any, source: int, needed_by: Sequence[int]) -> None:
        """Give a tensor to the ranks that need it, in place."""
        if source == self.rank:
            for target in needed_by:
                if target != source:
                    self._exchange.lines[source, target].put(data.clone())
            return
        try:
            data.copy_(self._exchange.lines[source, self.rank].get(timeout=self._patience_s))
        except queue.Empty:
            raise LostRanksError(f"rank {source} sends nothing") from None

    @contextlib.contextmanager
    def patience(self, seconds: float, doing: str) -> Iterator[None]:
        """No call in here waits longer for the other ranks."""
        del doing
        before, self._patience_s = self._patience_s, seconds
        try:
            yield
        finally:
            self._patience_s = before

    def _meet(self) -> None:
        try:
            self._exchange.barrier.wait(self._patience_s)
        except threading.BrokenBarrierError:
            raise LostRanksError("another rank is gone, or does not answer in time") from None


def run_ranks(world_size: int, program: Callable[[Ranks], T]) -> list[T | BaseException]:
    """Run a program on so many ranks; what each returned, or raised."""
    exchange = _Exchange(world_size)
    results: list[Any] = [None] * world_size

    def run(rank: int) -> None:
        try:
            results[rank] = program(ThreadRanks(rank, world_size, exchange))
        except BaseException as error:  # noqa: BLE001 - it is the result
            results[rank] = error
            if isinstance(error, LostRanksError) or not str(error):
                exchange.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
