"""Copies many runs of bytes at once, with a few threads (adapter over ``memmove``).

Threads take the next stretch when they are done with one. So one that gets no core for a while, on a node where other
processes work, delays its stretch and not its share of all bytes. The interpreter's lock is free while a stretch is copied.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterable

Move = tuple[int, int, int]
"""Address to copy to, address to copy from, bytes."""

STRETCH_BYTES = 4 * 1024 * 1024
"""Copied by one thread at a time: some 400 microseconds."""

LEAST_BYTES = 4 * 1024 * 1024
"""Less than this is copied before another thread has started."""


def move(moves: Iterable[Move], threads: int) -> None:
    """Copy all; the memory must stay where it is until this returns, and no two targets may overlap.

    Args:
        threads: at a time, this one included.
    """
    todo: deque[list[Move]] = deque()
    few: list[Move] = []
    few_bytes, size_bytes = 0, 0
    for to, source, size in moves:
        size_bytes += size
        if size >= STRETCH_BYTES:
            todo.extend([(to + start, source + start, min(STRETCH_BYTES, size - start))]
                        for start in range(0, size, STRETCH_BYTES))
            continue
        few.append((to, source, size))
        few_bytes += size
        if few_bytes >= STRETCH_BYTES:
            todo.append(few)
            few, few_bytes = [], 0
    todo.append(few)
    helpers = []
    if size_bytes >= LEAST_BYTES:
        helpers = [threading.Thread(target=_work, args=(todo,), name="hpctrain-copy", daemon=True)
                   for _ in range(min(threads, len(todo)) - 1)]
    for helper in helpers:
        helper.start()
    _work(todo)
    for helper in helpers:
        helper.join()


def _work(todo: deque[list[Move]]) -> None:
    while True:
        try:
            moves = todo.popleft()
        except IndexError:
            return
        for to, source, size in moves:
            ctypes.memmove(to, source, size)
