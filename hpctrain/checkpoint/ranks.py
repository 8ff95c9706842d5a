"""The few ways in which ranks agree (adapter over ``torch.distributed``).

Rank 0 decides and tells the others: on a shared file system two ranks may see different things at the same moment, and
ranks that act on what each sees end in a deadlock. Objects travel as pickles, but only between the ranks of this job,
over the connections that the job itself opened.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

from hpctrain.errors import HpctrainError

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""Longest wait for rank 0 (tokenising a large data set, a slow file system). A peer that *dies* is noticed at once."""


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
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        result: T = box[0]
        return result

    def gather(self, value: T) -> list[T]:
        """What every rank passed, by rank, on rank 0; an empty list elsewhere."""
        if self.world_size == 1:
            return [value]
        box: list[Any] | None = [None] * self.world_size if self.is_first else None
        dist.gather_object(value, box, dst=0, group=self._group)
        return box or []

    def everyone(self, value: T) -> list[T]:
        """What every rank passed, by rank, on every rank."""
        if self.world_size == 1:
            return [value]
        box: list[Any] = [None] * self.world_size
        dist.all_gather_object(box, value, group=self._group)
        return box

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


def lowest_error(errors: list[str]) -> str:
    """The first non-empty text, with the number of its rank in front unless it names one itself."""
    rank, text = next(((rank, text) for rank, text in enumerate(errors) if text), (0, ""))
    return text if not text or text.startswith("rank ") else f"rank {rank}: {text}"


def error_of(work: Callable[[], Any]) -> str:
    """Run one rank's part of a joint action and return its error as text, "" for none: for all ranks to agree on."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait to hear of it
        return _describe(error)
    return ""


def _describe(error: Exception) -> str:
    if isinstance(error, HpctrainError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {error}"


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
