"""Removing old checkpoints by hand (service over a :class:`Store`).

It may run beside the training: it follows the same order as the trainer's own pruning (commit record first), touches
nothing without a commit record, because that may be a save in flight, and before it removes anything it has read one
checkpoint that stays, whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hpctrain.checkpoint.catalogue import Listed, OnBytes, ignore, newest_whole
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.pins import is_pinned
from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.store import Store
from hpctrain.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What would go and what stays.

    Attributes:
        remove: oldest first.
        keep: complete ones that stay, newest first.
        sound: the newest of which every byte was read and is right; None if that was not asked for.
    """

    remove: tuple[Listed, ...]
    keep: tuple[Listed, ...]
    sound: CheckpointName | None

    @property
    def freed_bytes(self) -> int:
        """Sum over what would go."""
        return sum(item.size_bytes for item in self.remove)


def plan_prune(
    tier: Store, listed: Sequence[Listed], retention: Retention, *, check: bool = True, on_bytes: OnBytes = ignore,
) -> PrunePlan:
    """Decide what may go: only among checkpoints that look complete and are not pinned.

    Args:
        check: read the newest ones, until one is whole; that one stays whatever the retention says.

    Raises:
        CheckpointError: there is something to remove but no checkpoint is whole.
    """
    complete = {item.name: item for item in listed if item.state == "complete"}
    pinned = [name for name, item in complete.items() if item.pin is not None]
    remove = retention.superseded(complete, pinned)
    sound = None
    if check and remove:
        sound = newest_whole(tier, complete, on_bytes)
        if sound is None:
            raise CheckpointError(
                "nothing is removed, because no checkpoint is whole", where=tier.where,
                hint="'hpctrain checkpoints verify RUN --all' names what is damaged",
            )
    gone = [name for name in remove if name != sound]
    keep = [item for name, item in complete.items() if name not in gone]
    return PrunePlan(tuple(complete[name] for name in gone), tuple(keep), sound)


def prune(tier: Store, plan: PrunePlan) -> list[Listed]:
    """Carry it out; what was really removed. One that was pinned in the meantime stays.

    Raises:
        StorageError: something could not be removed; what comes after it stays.
    """
    removed = []
    for item in plan.remove:
        if not is_pinned(tier, item.name):
            tier.discard(item.name)
            removed.append(item)
    return removed
