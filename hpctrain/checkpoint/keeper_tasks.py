"""What the writer process is asked to make durable (pure).

Per rank one order is in work and one waits at most: a newer order replaces the one that waits, so that a slow disk delays
but never piles up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.names import CheckpointName

ATTEMPTS = 3
"""Writers that may die over one order before it is reported as failed."""


@dataclass(eq=False)
class Task:
    """One order.

    Attributes:
        order: where to write; the writer understands it.
        writer: connection that works on it; None while it waits.
    """

    rank: int
    name: CheckpointName
    order: dict[str, Any]
    writer: int | None = None
    attempts: int = 0


@dataclass
class TaskBoard:
    """Orders and their results, by rank."""

    _waiting: dict[int, Task] = field(default_factory=dict)
    _working: dict[int, Task] = field(default_factory=dict)
    _results: dict[int, dict[str, Any]] = field(default_factory=dict)

    def post(self, rank: int, name: CheckpointName, order: dict[str, Any]) -> CheckpointName | None:
        """Ask for a checkpoint to be written; returns the one that now will not be."""
        replaced = self._waiting.pop(rank, None)
        self._waiting[rank] = Task(rank, name, order)
        return None if replaced is None else replaced.name

    def has_work(self) -> bool:
        """There is an order that nobody works on, of a rank for which nothing else is in work."""
        return any(rank not in self._working for rank in self._waiting)

    def take(self, connection: int) -> Task | None:
        """An order for this writer: the one that has waited longest."""
        for rank, task in self._waiting.items():
            if rank not in self._working:
                del self._waiting[rank]
                task.writer = connection
                task.attempts += 1
                self._working[rank] = task
                return task
        return None

    def finish(self, connection: int, rank: int, result: dict[str, Any]) -> None:
        """An order is done, well or not.

        Raises:
            RefusedError: this writer does not work on it.
        """
        task = self._working.get(rank)
        if task is None or task.writer != connection:
            raise RefusedError(f"nothing of rank {rank} is being written by this process")
        del self._working[rank]
        self._results[rank] = {"name": [task.name.incarnation, task.name.step], **result}

    def leave(self, connection: int) -> None:
        """A writer is gone: another one shall do its work."""
        for rank, task in list(self._working.items()):
            if task.writer != connection:
                continue
            del self._working[rank]
            task.writer = None
            if task.attempts >= ATTEMPTS:
                reason = f"{task.attempts} writer processes died over it"
                self._results[rank] = {"name": [task.name.incarnation, task.name.step], "error": reason}
            elif rank not in self._waiting:
                self._waiting[rank] = task

    def report(self, rank: int) -> dict[str, Any]:
        """What a rank's orders have come to: ``waiting`` and ``working`` name checkpoints, ``result`` is the newest one."""
        waiting, working = self._waiting.get(rank), self._working.get(rank)
        return {
            "waiting": None if waiting is None else [waiting.name.incarnation, waiting.name.step],
            "working": None if working is None else [working.name.incarnation, working.name.step],
            "result": self._results.get(rank),
        }
