"""Memory and disk use of a tree of processes (adapter over ``/proc``)."""

from __future__ import annotations

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

_ANONYMOUS = re.compile(r"^RssAnon:\s+(\d+) kB", re.MULTILINE)
_SHARED = re.compile(r"^Shmem:\s+(\d+) kB", re.MULTILINE)
_WRITTEN = re.compile(r"^write_bytes: (\d+)", re.MULTILINE)
_LOOK_AGAIN_S = 0.5


def tree(root: int) -> list[int]:
    """A process and all that descend from it."""
    children = defaultdict(list)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            children[int(text.rpartition(")")[2].split()[1])].append(int(text.split(" ", 1)[0]))
    found = [root]
    for pid in found:
        found += children[pid]
    return found


def written_bytes(root: int) -> int:
    """What the tree has sent to block devices so far, children that have ended and were waited for included."""
    return sum(_numbers(pid, "io", _WRITTEN) for pid in tree(root))


class MemoryUse:
    """Private memory of a tree of processes, plus shared memory of the whole machine.

    A block of shared memory belongs to no process (the keeper of ours does not even map it), so the machine's total is what
    tells; only a quiet machine gives an honest difference.
    """

    def __init__(self, root: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._pids: list[int] = []
        self._looked = -_LOOK_AGAIN_S

    def now_bytes(self) -> int:
        """At this moment; cheap enough to be asked forty times per second."""
        if self._clock() - self._looked >= _LOOK_AGAIN_S:
            self._pids, self._looked = tree(self._root), self._clock()
        shared = _SHARED.search(Path("/proc/meminfo").read_text())
        private = sum(_numbers(pid, "status", _ANONYMOUS) for pid in self._pids)
        return 1024 * (private + (int(shared.group(1)) if shared else 0))


def _numbers(pid: int, file: str, pattern: re.Pattern[str]) -> int:
    with contextlib.suppress(OSError):
        found = pattern.search(Path(f"/proc/{pid}/{file}").read_text())
        return int(found.group(1)) if found else 0
    return 0
