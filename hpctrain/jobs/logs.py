"""Log lines: which files a person wants, and their lines as values (pure).

A rank's file has lines ``2026-11-21T01:54:47.123Z text``; ``job.out`` (the batch step) may have lines without a time,
which then count as written at the time of the line before.
"""

from __future__ import annotations

import heapq
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from hpctrain.jobs.layout import RankLog
from hpctrain.jobs.text import iso

_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?Z(?: |$)")
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor movements
    r"|\x1b\].*?(?:\x07|\x1b\\|$)"  # window titles and links
    r"|\x1b.?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m$")

PALETTE = (36, 32, 33, 35, 34, 96, 92, 93, 95, 94)
"""ANSI colours of the rank prefixes; a rank has the same one in every call. Red is left to errors."""
JOB_COLOUR = 2
"""The batch step's prefix is dim."""


@dataclass(frozen=True, slots=True, order=True)
class LogLine:
    """One line of output. Lines sort by time, then as their sources do.

    Attributes:
        time: seconds since the epoch; ``-inf`` before the first time in a file that starts without one.
        rank: -1 for the batch step, whose ``node`` is "".
    """

    time: float
    incarnation: int
    rank: int
    node: str
    text: str

    @property
    def prefix(self) -> str:
        """Whose line it is: ``[rank 3 n1]`` or ``[job]``."""
        return "[job]" if self.rank < 0 else f"[rank {self.rank} {self.node}]"

    @property
    def colour(self) -> int:
        """The ANSI colour of the prefix, the same in every call."""
        return JOB_COLOUR if self.rank < 0 else PALETTE[self.rank % len(PALETTE)]

    def to_json(self) -> dict[str, Any]:
        """One object of ``hpctrain logs -o json``."""
        known = math.isfinite(self.time)
        return {
            "time": self.time if known else None, "time_iso": iso(self.time) if known else None,
            "rank": None if self.rank < 0 else self.rank, "node": self.node or None, "incarnation": self.incarnation,
            "text": clean(self.text, colour=False),
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """Which logs a person wants. The default is rank 0 and the batch step.

    Attributes:
        rank: only this rank.
        node: only the ranks on this node.
        all: every rank and the batch step.
    """

    rank: int | None = None
    node: str | None = None
    all: bool = False

    @property
    def job(self) -> bool:
        """The batch step's output is wanted too."""
        return self.rank is None and self.node is None

    def takes(self, log: RankLog) -> bool:
        """This rank log is wanted."""
        if self.all:
            return True
        if self.rank is None and self.node is None:
            return log.rank == 0
        return self.rank in (None, log.rank) and self.node in (None, log.node)


def split_stamp(text: str) -> tuple[float | None, str]:
    """(time, rest) of a line; the time is None where the line has none."""
    match = _STAMP.match(text)
    if not match:
        return None, text
    try:
        whole = datetime.fromisoformat(match[1]).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None, text
    return whole + float(f"0.{match[2] or 0}"), text[match.end():]


def clean(text: str, *, colour: bool) -> str:
    """A line that cannot disturb a terminal: of a progress bar's redrawn line the last state, no control characters.

    Args:
        colour: keep colour sequences (they are closed at the end of the line).
    """
    drawn = [part for part in text.split("\r") if part.strip()]
    line = drawn[-1] if drawn else ""
    if not _CONTROL.search(line):
        return line
    kept = _CONTROL.sub(lambda match: match[0] if colour and _COLOUR.match(match[0]) else "", line)
    return kept + "\x1b[0m" if "\x1b[" in kept else kept


@dataclass(frozen=True, slots=True)
class LineFormat:
    """How lines are shown.

    Attributes:
        colour: colour the prefixes and keep colours that the ranks print.
        timestamps: put the time, in UTC, before each line.
        json: one JSON object per line instead.
    """

    colour: bool = False
    timestamps: bool = False
    json: bool = False

    def show(self, line: LogLine) -> str:
        """The text of one line, without its newline."""
        if self.json:
            return json.dumps(line.to_json(), ensure_ascii=False)
        prefix = f"\x1b[{line.colour}m{line.prefix}\x1b[0m" if self.colour else line.prefix
        known = math.isfinite(line.time)
        time = f"{iso(line.time) if known else '-':24} " if self.timestamps else ""
        return f"{time}{prefix} {clean(line.text, colour=self.colour)}".rstrip(" ")


class EchoFilter:
    """Leaves out what stands in two files: the agents repeat rank 0's lines in the batch step's output.

    A line of the batch step and one of a rank are the same if time and text are. Whichever comes first is kept.
    """

    def __init__(self, remember: int = 20_000) -> None:
        self._remember = remember
        self._seen: dict[tuple[float, str], tuple[bool, int]] = {}

    def passes(self, line: LogLine) -> bool:
        """False for the second copy of a line."""
        key, is_job = (line.time, line.text), line.rank < 0
        was_job, copies = self._seen.get(key, (is_job, 0))
        if was_job != is_job and copies:
            self._seen[key] = (was_job, copies - 1)
            return False
        self._seen.pop(key, None)
        self._seen[key] = (is_job, copies + 1)
        if len(self._seen) > self._remember:
            del self._seen[next(iter(self._seen))]
        return True


def in_order(streams: Iterable[Iterable[LogLine]]) -> Iterator[LogLine]:
    """Lines of several sources by time; lines of one source never change places."""
    return heapq.merge(*streams, key=lambda line: line.time)
