"""What the writer process is asked to do with checkpoints in memory (pure).

Per tier and rank one order is in work and one waits at most: a newer order replaces the one that waits, so that a slow disk
delays but never piles up. Tiers do not wait for each other: each is served by a thread of the writer's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.names import CheckpointName

ATTEMPTS = 3
"""Writers that may die over one order before it is reported as failed."""

Key = tuple[str, int]
"""A tier and a rank."""


@dataclass(eq=False)
class Task:
    """One order.

    Attributes:
        order: where to write; the writer understands it.
        store: of the keeper that holds the part: ``own``, or ``peer`` for a copy of another node's rank.
        writer: connection that works on it; None while it waits.
    """

    tier: str
    rank: int
    name: CheckpointName
    order: dict[str, Any]
    store: str = "own"
    writer: int | None = None
    attempts: int = 0


@dataclass
class TaskBoard:
    """Orders and their results, by tier and rank."""

    _waiting: dict[Key, Task] = field(default_factory=dict)
    _working: dict[Key, Task] = field(default_factory=dict)
    _results: dict[Key, dict[str, Any]] = field(default_factory=dict)

    def post(self, task: Task) -> CheckpointName | None:
        """Ask for a checkpoint to be written; returns the one that now will not be."""
        replaced = self._waiting.pop((task.tier, task.rank), None)
        self._waiting[task.tier, task.rank] = task
        return None if replaced is None else replaced.name

    def has_work(self, tier: str) -> bool:
        """There is an order for this tier that nobody works on, of a rank for which nothing else is in work there."""
        return self._next(tier) is not None

    def take(self, connection: int, tier: str) -> Task | None:
        """An order for this writer: the one for the tier that has waited longest."""
        task = self._next(tier)
        if task is not None:
            del self._waiting[task.tier, task.rank]
            task.writer = connection
            task.attempts += 1
            self._working[task.tier, task.rank] = task
        return task

    def finish(self, connection: int, tier: str, rank: int, result: dict[str, Any]) -> None:
        """An order is done, well or not.

        Raises:
            RefusedError: this writer does not work on it.
        """
        task = self._working.get((tier, rank))
        if task is None or task.writer != connection:
            raise RefusedError(f"nothing of rank {rank} is being written to tier {tier} by this process")
        del self._working[tier, rank]
        self._results[tier, rank] = {"name": _pair(task.name), **result}

    def leave(self, connection: int) -> None:
        """A writer is gone: another one shall do its work."""
        for key, task in list(self._working.items()):
            if task.writer != connection:
                continue
            del self._working[key]
            task.writer = None
            if task.attempts >= ATTEMPTS:
                reason = f"{task.attempts} writer processes died over it"
                self._results[key] = {"name": _pair(task.name), "error": reason}
            elif key not in self._waiting:
                self._waiting[key] = task

    def report(self, rank: int, tier: str) -> dict[str, Any]:
        """What a rank's orders for a tier have come to.

        ``waiting`` and ``working`` name checkpoints; ``result`` is the newest one.
        """
        waiting, working = self._waiting.get((tier, rank)), self._working.get((tier, rank))
        return {
            "waiting": None if waiting is None else _pair(waiting.name),
            "working": None if working is None else _pair(working.name),
            "result": self._results.get((tier, rank)),
        }

    def reports(self, rank: int) -> dict[str, dict[str, Any]]:
        """Of every tier for which this rank has ever given an order."""
        tiers = {tier for known in (self._waiting, self._working, self._results) for tier, whose in known if whose == rank}
        return {tier: self.report(rank, tier) for tier in sorted(tiers)}

    def _next(self, tier: str) -> Task | None:
        return next((task for key, task in self._waiting.items() if key[0] == tier and key not in self._working), None)


def _pair(name: CheckpointName) -> list[int]:
    return [name.incarnation, name.step]
