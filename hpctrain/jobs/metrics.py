"""Per-step metrics: read, sampled where the file is large, merged over restarts (adapter over the file system).

``metrics.jsonl`` only grows. Steps that a restart did again stand in it twice, and the later incarnation is the one
whose result lives on: every point of an earlier incarnation at or after a later one's first step is dropped.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from hpctrain.jobs.records import Metrics, Point, Restart, find_restarts, merge_points, parse_point

READ_WHOLE_BYTES = 4 * 1024 * 1024
"""A file up to this size is read line by line; of a larger one, lines at evenly spaced places are read."""


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
            # The first step of each incarnation decides which older points still count.
            firsts = [point for older, point in pairwise(between) if point.incarnation > older.incarnation]
            points.update({(point.incarnation, point.step): point for point in firsts})
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
