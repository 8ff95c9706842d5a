"""What may be deleted (pure)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from hpctrain.checkpoint.names import CheckpointName


@dataclass(frozen=True, slots=True)
class Retention:
    """Keeps the newest ``keep_last`` complete checkpoints, and those at multiples of ``keep_every_steps``.

    Raises:
        ValueError: ``keep_last`` is below 1, which would allow deleting the only checkpoint.
    """

    keep_last: int = 2
    keep_every_steps: int | None = None

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, not {self.keep_last}: the only checkpoint would be deleted")

    def superseded(
        self, complete: Collection[CheckpointName], pinned: Collection[CheckpointName] = (),
    ) -> list[CheckpointName]:
        """Checkpoints that may go, oldest first; the newest complete one and the pinned ones are never among them."""
        older = sorted(complete)[: -self.keep_last]
        return [name for name in older if not self._is_milestone(name) and name not in pinned]

    def _is_milestone(self, name: CheckpointName) -> bool:
        return self.keep_every_steps is not None and name.step % self.keep_every_steps == 0
