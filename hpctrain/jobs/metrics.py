"""Per-step metrics: read, sampled where the file is large, merged over restarts (adapter over the file system).

``metrics.jsonl`` only grows. Steps that a restart did again stand in it twice, and the later incarnation is the one
whose result lives on: every point of an earlier incarnation at or after a later one's first step is dropped.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from hpctrain.jobs.reader import real, whole

READ_WHOLE_BYTES = 4 * 1024 * 1024
"""A file up to this size is read line by line; of a larger one, lines at evenly spaced places are read."""


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


def read_metrics(path: Path, *, samples: int | None = None) -> Metrics:
    """All points, or about ``samples`` of them if the file is large; a missing file is empty."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if samples is None or size <= READ_WHOLE_BYTES:
                points = [point for line in file if (point := parse_point(line)) is not None]
                return Metrics(merge_points(points), find_restarts(points))
            return _sample(file, size, samples)
    except OSError:
        return Metrics()


def read_tail(path: Path, *, size_bytes: int = 65536) -> list[Point]:
    """The newest points, oldest first, of one incarnation: what rates and ETA are computed from."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size_bytes))
            if end > size_bytes:
                file.readline()
            points = [point for line in file if (point := parse_point(line)) is not None]
    except OSError:
        return []
    newest = points[-1].incarnation if points else 0
    return [point for point in points if point.incarnation == newest]


def parse_point(line: bytes) -> Point | None:
    """One line; None if it is torn or no point."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        record: Any = json.loads(line)
        return Point(
            step=int(record["step"]), time=float(record["time"]), incarnation=whole(record.get("incarnation")) or 0,
            loss=real(record.get("loss")), learning_rate=real(record.get("learning_rate")),
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


def _sample(file: BinaryIO, size: int, samples: int) -> Metrics:
    stride = max(1, size // samples)
    places = [place for offset in range(0, size, stride) if (place := _point_after(file, offset, size)) is not None]
    newest = _last_point(file, size)
    if newest is not None:
        places.append((size, newest))
    points = {(point.incarnation, point.step): point for _, point in places}
    restarts: list[Restart] = []
    for (left, before), (right, after) in pairwise(places):
        if after.incarnation > before.incarnation:
            between = [*_points_between(file, left, right), after]
            restarts.extend(find_restarts(between))
    return Metrics(merge_points(points.values()), tuple(restarts), sampled=True)


def _points_between(file: BinaryIO, left: int, right: int) -> list[Point]:
    file.seek(left)
    return [point for line in file.read(right - left).splitlines() if (point := parse_point(line)) is not None]


def _point_after(file: BinaryIO, offset: int, size: int) -> tuple[int, Point] | None:
    """The first whole line at or after a place, and where it starts."""
    file.seek(offset)
    if offset:
        file.readline()
    for _ in range(4):
        start = file.tell()
        if start >= size:
            return None
        point = parse_point(file.readline())
        if point is not None:
            return start, point
    return None


def _last_point(file: BinaryIO, size: int) -> Point | None:
    file.seek(max(0, size - 65536))
    points = [point for line in file if (point := parse_point(line)) is not None]
    return points[-1] if points else None
