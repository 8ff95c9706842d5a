"""The few ways in which ranks agree (adapter over ``torch.distributed``).

Rank 0 decides and tells the others: on a shared file system two ranks may see different things at the same moment, and
ranks that act on what each sees end in a deadlock. Objects travel as pickles, but only between the ranks of this job,
over the connections that the job itself opened.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _set_pg_timeout

from hpctrain.checkpoint.problems import error_of as error_of  # noqa: PLC0414 - part of what ranks do to agree
from hpctrain.checkpoint.problems import lowest_error as lowest_error  # noqa: PLC0414 - see above
from hpctrain.errors import HpctrainError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""Longest wait for rank 0 (tokenising a large data set, a slow file system). A peer that *dies* is noticed at once."""


_ROOM_BYTES = 8192
"""What is said at a save fits: it takes one exchange, not one for the size and one for the rest."""

_SIZE = struct.Struct("<Q")
_LOST = ("Timed out", "timeout", "Connection", "connection")
"""How gloo's errors begin when another rank does not answer; they have no class of their own."""


class LostRanksError(RuntimeError):
    """Another rank is gone, or does not answer in time."""


class Ranks:
    """All ranks of the job, on a process group of their own that carries no tensors of the training.

    Made by every rank at the same moment (it creates a process group); without ``torch.distributed`` it is one rank.
    """

    def __init__(self) -> None:
        self._group: Any = None
        self.rank, self.world_size = 0, 1
        if dist.is_available() and dist.is_initialized():
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def is_first(self) -> bool:
        """This is rank 0."""
        return self.rank == 0

    @property
    def group(self) -> Any:
        """The gloo process group; None when there is only this process."""
        return self._group

    def broadcast(self, value: T) -> T:
        """What rank 0 passed."""
        if self.world_size == 1:
            return value
        data = pickle.dumps(value) if self.is_first else b""
        head = _head(data)
        dist.broadcast(head, src=0, group=self._group)
        rest = _rest(data) if self.is_first else torch.empty(_missing(head), dtype=torch.uint8)
        if rest.numel():
            dist.broadcast(rest, src=0, group=self._group)
        if self.is_first:
            return value
        result: T = _said(head, rest)
        return result

    def gather(self, value: T) -> list[T]:
        """What every rank passed, by rank, on rank 0; an empty list elsewhere."""
        if self.world_size == 1:
            return [value]
        data = b"" if self.is_first else pickle.dumps(value)
        heads = [torch.empty(_ROOM_BYTES, dtype=torch.uint8) for _ in range(self.world_size)] if self.is_first else None
        dist.gather(_head(data), heads, dst=0, group=self._group)
        if heads is None:
            rest = _rest(data)
            if rest.numel():
                dist.send(rest, dst=0, group=self._group)
            return []
        found = [value]
        for rank in range(1, self.world_size):
            rest = torch.empty(_missing(heads[rank]), dtype=torch.uint8)
            if rest.numel():
                dist.recv(rest, src=rank, group=self._group)
            found.append(_said(heads[rank], rest))
        return found

    def everyone(self, value: T) -> list[T]:
        """What every rank passed, by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value, group=self._group)
        return box

    def share(self, data: Any, source: int, needed_by: Sequence[int]) -> None:
        """Give a tensor to the ranks that need it, in place; called by the source and by all of them, in the same order.

        Args:
            data: on the CPU; what the source has, and memory to receive it elsewhere.
        """
        if len({source, *needed_by}) == self.world_size:
            if self.world_size > 1:
                dist.broadcast(data, src=source, group=self._group)
        elif source == self.rank:
            for other in needed_by:
                if other != self.rank:
                    dist.send(data, dst=other, group=self._group)
        else:
            dist.recv(data, src=source, group=self._group)

    @contextlib.contextmanager
    def patience(self, seconds: float, doing: str) -> Iterator[None]:
        """No call in here waits longer for the other ranks.

        Raises:
            LostRanksError: another rank is gone or does not answer; these ranks can only end.
        """
        if self._group is None:
            yield
            return
        _set_pg_timeout(timedelta(seconds=seconds), self._group)
        try:
            yield
        except RuntimeError as error:
            if not any(sign in str(error) for sign in _LOST):
                raise
            message = f"another rank is gone, or does not answer for {seconds:g} s, while {doing}: {error}"
            raise LostRanksError(message) from error
        finally:
            _set_pg_timeout(PATIENCE, self._group)

    def on_first(self, work: Callable[[], T]) -> T:
        """Run something on rank 0 only; every rank returns its result, or raises its error.

        Raises:
            HpctrainError: the error that rank 0 met, on every rank.
            RuntimeError: any other error that rank 0 met, on the other ranks.
        """
        result: Any = None
        error: Exception | None = None
        if self.is_first:
            try:
                result = work()
            except Exception as caught:
                error = caught
                if self.world_size == 1:
                    raise
        outcome = self.broadcast((result, _portable(error)))
        if error is not None:
            raise error
        if outcome[1] is not None:
            raise outcome[1]
        agreed: T = outcome[0]
        return agreed

    def first_error(self, error: str) -> str:
        """The lowest rank's non-empty text, on every rank; "" when all passed "". A barrier, too."""
        gathered = self.gather(error)
        return self.broadcast(lowest_error(gathered))


def _head(data: bytes) -> torch.Tensor:
    """The size, and as much as there is room for."""
    text = _SIZE.pack(len(data)) + data[:_ROOM_BYTES - _SIZE.size]
    return torch.frombuffer(bytearray(text.ljust(_ROOM_BYTES, b"\0")), dtype=torch.uint8)


def _rest(data: bytes) -> torch.Tensor:
    rest = bytearray(data[_ROOM_BYTES - _SIZE.size:])
    return torch.frombuffer(rest, dtype=torch.uint8) if rest else torch.empty(0, dtype=torch.uint8)


def _missing(head: torch.Tensor) -> int:
    """Bytes that there was no room for."""
    size: int = _SIZE.unpack(bytes(head[:_SIZE.size].numpy()))[0]
    return max(0, size - (_ROOM_BYTES - _SIZE.size))


def _said(head: torch.Tensor, rest: torch.Tensor) -> Any:
    data = bytes(head[_SIZE.size:].numpy()) + bytes(rest.numpy())
    return pickle.loads(data)  # noqa: S301 - of a rank of this job, over the connections that the job itself opened


def _portable(error: Exception | None) -> Exception | None:
    """An error that survives the journey to another rank."""
    if error is None:
        return None
    if isinstance(error, HpctrainError):
        return RemoteError.wrap(error)
    return RuntimeError(f"rank 0 failed: {type(error).__name__}: {error}")


class RemoteError(HpctrainError):
    """A user's or site's mistake that rank 0 met; it carries that error's exit code, and is not reported twice."""

    code: int = 1

    @classmethod
    def wrap(cls, error: HpctrainError) -> RemoteError:
        """Copy what matters of an error of any of our classes."""
        copy = cls(error.message, where=error.where, hint=error.advice)
        copy.code = error.exit_code
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.message, self.where, self.advice, self.code))


def _rebuild(message: str, where: str, hint: str, code: int) -> RemoteError:
    error = RemoteError(message, where=where, hint=hint)
    error.code = code
    return error
