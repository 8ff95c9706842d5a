"""What may be deleted (pure)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from hpctrain.checkpoint.names import CheckpointName

MODES = ("min", "max")


@dataclass(frozen=True, slots=True)
class KeepBest:
    """Keeps the ``count`` checkpoints with the lowest (``min``) or highest (``max``) value of a metric.

    Raises:
        ValueError: the mode is unknown, or the count below 1.
    """

    metric: str
    mode: str = "min"
    count: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"keep_best: mode is {self.mode!r}, not 'min' or 'max'")
        if self.count < 1:
            raise ValueError(f"keep_best: count must be at least 1, not {self.count}")
        if not self.metric:
            raise ValueError("keep_best: the metric has no name")

    def best(self, metrics: Mapping[CheckpointName, Mapping[str, Any]]) -> list[CheckpointName]:
        """The best ones, best first; of equals the newer one. What has no such number does not take part."""
        values = {name: float(of_it[self.metric]) for name, of_it in metrics.items() if _is_number(of_it.get(self.metric))}
        sign = 1 if self.mode == "min" else -1
        return sorted(values, key=lambda name: (sign * values[name], -name.incarnation, -name.step))[: self.count]


@dataclass(frozen=True, slots=True)
class Retention:
    """Keeps the newest ``keep_last`` complete checkpoints, those at multiples of ``keep_every_steps``, and the best ones.

    Raises:
        ValueError: ``keep_last`` is below 1, which would allow deleting the only checkpoint; or ``keep_every_steps`` is.
    """

    keep_last: int = 2
    keep_every_steps: int | None = None
    keep_best: KeepBest | None = None

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, not {self.keep_last}: the only checkpoint would be deleted")
        if self.keep_every_steps is not None and self.keep_every_steps < 1:
            raise ValueError(f"keep_every_steps must be at least 1, not {self.keep_every_steps}")

    @property
    def needs_metrics(self) -> bool:
        """:meth:`superseded` needs to know the metrics of every checkpoint."""
        return self.keep_best is not None

    def superseded(
        self, complete: Collection[CheckpointName], pinned: Collection[CheckpointName] = (),
        metrics: Mapping[CheckpointName, Mapping[str, Any]] | None = None,
    ) -> list[CheckpointName]:
        """Checkpoints that may go, oldest first; the newest complete one and the pinned ones are never among them.

        Args:
            metrics: of each checkpoint, as its commit record has them in ``world["metrics"]``; only for ``keep_best``.
        """
        older = sorted(complete)[: -self.keep_last]
        known = {name: values for name, values in (metrics or {}).items() if name in complete}
        best = self.keep_best.best(known) if self.keep_best is not None else []
        return [name for name in older if not self._is_milestone(name) and name not in pinned and name not in best]

    def to_json(self) -> dict[str, Any]:
        """For an order to the writer."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Retention:
        """The inverse of :meth:`to_json`; what is missing has its default.

        Raises:
            ValueError: it is something else.
        """
        known = {one.name for one in fields(cls)}
        if not isinstance(value, Mapping) or not set(value) <= known:
            raise ValueError(f"a retention is an object with some of {', '.join(sorted(known))}, not {value!r}")
        best = value.get("keep_best")
        try:
            keep = {**value, "keep_best": None if best is None else KeepBest(**best)}
            return cls(**keep)
        except TypeError as error:
            raise ValueError(f"not a retention: {error}") from None

    def _is_milestone(self, name: CheckpointName) -> bool:
        return self.keep_every_steps is not None and name.step % self.keep_every_steps == 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
