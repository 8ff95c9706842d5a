"""What a run writes about itself, as values: heartbeat and per-step metrics (pure)."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest heartbeat of rank 0.

    Attributes:
        time: when rank 0 said so, seconds since the epoch.
        phase: what it was doing: ``init``, ``data``, ``load``, ``step``, ``save``, ``evaluate``, ``finish``.
        detail: more about that, for people.
        step: completed optimizer steps, None before the loop.
    """

    time: float
    phase: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """One completed step, as rank 0 measured it. None: not recorded."""

    step: int
    time: float
    incarnation: int = 0
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    step_time_s: float | None = None
    epoch: float | None = None


@dataclass(frozen=True, slots=True)
class Restart:
    """A place where a later incarnation took over.

    Attributes:
        incarnation: the later one.
        time: when its first step was done.
        last_step: how far the earlier one had come.
        first_step: the later one's first step; everything from there to ``last_step`` was done twice.
        last_time: when the earlier one did its last step.
    """

    incarnation: int
    time: float
    last_step: int
    first_step: int
    last_time: float

    @property
    def steps_redone(self) -> int:
        """Steps whose work was lost."""
        return max(0, self.last_step - self.first_step + 1)


@dataclass(frozen=True, slots=True)
class Metrics:
    """What :func:`read_metrics` found.

    Attributes:
        points: by step, without those that were done again later.
        restarts: where incarnations changed, exact also when ``sampled``.
        sampled: the file was too large to read whole; ``points`` are evenly spaced lines of it.
    """

    points: tuple[Point, ...] = ()
    restarts: tuple[Restart, ...] = ()
    sampled: bool = False


def parse_point(line: bytes) -> Point | None:
    """One line; None if it is torn or no point."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        record: Any = json.loads(line)
        return Point(
            step=int(record["step"]), time=float(record["time"]), incarnation=whole(record.get("incarnation")) or 0,
            loss=loss_of(record), learning_rate=real(record.get("learning_rate")),
            grad_norm=real(record.get("grad_norm")), tokens=whole(record.get("tokens")),
            tokens_per_s=real(record.get("tokens_per_s")), step_time_s=real(record.get("step_time_s")),
            epoch=real(record.get("epoch")),
        )
    return None


def merge_points(points: Iterable[Point]) -> tuple[Point, ...]:
    """Points by step, each step once, the latest incarnation winning."""
    newest_first = sorted(points, key=lambda point: (point.incarnation, point.step, point.time), reverse=True)
    kept: list[Point] = []
    for point in newest_first:
        # Going back in time, every point kept must lie before all that came later.
        if not kept or point.step < kept[-1].step:
            kept.append(point)
    return tuple(reversed(kept))


def find_restarts(points: Sequence[Point]) -> tuple[Restart, ...]:
    """Where incarnations change, for points in the order they were written."""
    restarts: list[Restart] = []
    for before, after in pairwise(points):
        if after.incarnation > before.incarnation:
            restarts.append(Restart(after.incarnation, after.time, before.step, after.step, before.time))
    return tuple(restarts)


def whole(value: object) -> int | None:
    """An integer out of JSON, None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return int(value)


def real(value: object) -> float | None:
    """A number out of JSON (NaN and infinity included), None for anything else."""
    return None if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)


def loss_of(record: Mapping[str, Any]) -> float | None:
    """The loss in a record. The trainer writes JSON, which has no NaN: ``null`` is a loss that was no number."""
    if "loss" in record and record["loss"] is None:
        return math.nan
    return real(record.get("loss"))
