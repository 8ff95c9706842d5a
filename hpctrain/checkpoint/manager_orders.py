"""This rank's orders to its node's writer (service over the RAM tier).

The task that an order carries is the contract with the writer: docs/decisions/007-checkpoint-tiers.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.orders import Report, read_report
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.tier_ram_saves import RamSaves

_STORES = ("shared", "object")


class Orders:
    """Posts orders, and remembers the newest of each tier.

    Args:
        ram: where the checkpoints are; None: there is nobody to order from.
    """

    def __init__(self, config: CheckpointConfig, ranks: Ranks, ram: RamSaves | None) -> None:
        self._ram, self._ranks, self._patience_s = ram, ranks, config.patience_s
        self._roots, self._retention = _places(config) if ram is not None else ({}, {})
        self._posted: dict[str, tuple[CheckpointName, Report | None]] = {}
        self._untaken: dict[str, CheckpointName] = {}

    @property
    def tiers(self) -> tuple[str, ...]:
        """Those that the writer writes."""
        return tuple(self._roots)

    def post(
        self, tier: str, name: CheckpointName, attempt: int, *, reason: str, time: float, world: Mapping[str, Any],
        keep: CheckpointName | None = None,
    ) -> None:
        """Order a checkpoint that all ranks have in memory; what goes wrong is told by :meth:`reports`.

        Args:
            attempt: the same number on every rank.
            time: of the checkpoint, seconds since the epoch.
            world: for its commit record.
            keep: what must stay in the tier until this order is done on all ranks.
        """
        assert self._ram is not None  # noqa: S101 - for the type checker: without it there are no tiers
        commit = None
        if tier in _STORES and self._ranks.is_first:
            commit = {"world_size": self._ranks.world_size, "world": dict(world), "time": time, "reason": reason,
                      "retention": self._retention[tier], "patience_s": self._patience_s}
        task = {"root": self._roots[tier], "attempt": attempt, "commit": commit, "retention": self._retention.get(tier),
                "keep": [] if keep is None else [[keep.incarnation, keep.step]]}
        error = self._ram.post(tier, name, task)
        self._posted[tier] = (name, Report("lost", error) if error else None)
        if not error:
            self._untaken[tier] = name

    @property
    def untaken(self) -> CheckpointName | None:
        """The oldest checkpoint that was ordered and, as far as is known, has not been taken by the writer.

        Only one, so that a writer that is gone cannot keep more memory from being used again.
        """
        return min(self._untaken.values(), default=None)

    def reports(self) -> dict[str, Report]:
        """How this rank's newest order of each tier stands; the keeper is not asked again for one that is over."""
        found = {}
        for tier, (name, over) in list(self._posted.items()):
            found[tier] = over or self._ask(tier, name)
        return found

    def _ask(self, tier: str, name: CheckpointName) -> Report:
        assert self._ram is not None  # noqa: S101 - for the type checker: it was posted somewhere
        report = read_report(self._ram.persisted(tier), name)
        if report.state != "waiting":
            self._untaken.pop(tier, None)
        if report.state in ("done", "lost"):
            self._posted[tier] = (name, report)
        return report


def _places(config: CheckpointConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """Root and retention of each tier that the writer writes."""
    roots, retention = {}, {}
    if config.peer is not None:
        roots["peer"] = ""
    if config.local is not None:
        roots["local"], retention["local"] = str(config.local.path), config.local.retention.to_json()
    roots["shared"], retention["shared"] = str(config.root), config.retention.to_json()
    if config.object is not None:
        roots["object"], retention["object"] = config.object.url, config.object.retention.to_json()
    return roots, retention
