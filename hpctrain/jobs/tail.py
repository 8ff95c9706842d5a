"""Read log files from the start, from the end, and while they grow (adapter over the file system).

No file stays open between reads, so that thousands of ranks do not exhaust file descriptors, and no inotify, because
cluster file systems do not report changes made on another node.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctrain.jobs.layout import RankLog, RunDir, parse_rank_log
from hpctrain.jobs.logs import EchoFilter, LogLine, Selection, in_order, split_stamp
from hpctrain.jobs.position import Place

BLOCK_BYTES = 256 * 1024
LONGEST_LINE_BYTES = 1024 * 1024
"""A longer line is cut into pieces."""
ECHO_BYTES = 1024 * 1024
"""So much of a file before a place in it is read again to know which of its lines may still come as an echo."""


@dataclass(frozen=True, slots=True)
class Source:
    """One log file and whose it is; ``rank`` is -1 for the batch step."""

    path: Path
    incarnation: int = 0
    rank: int = -1
    node: str = ""

    @classmethod
    def of_rank(cls, log: RankLog) -> Source:
        """The source that a rank log is."""
        return cls(log.path, log.incarnation, log.rank, log.node)


def find_sources(run: RunDir, selection: Selection) -> list[Source]:
    """The wanted log files that exist now: by incarnation and rank, the batch step's last."""
    logs: list[RankLog] = []
    for folder in sorted(run.logs.glob("i[0-9]*")):
        try:
            with os.scandir(folder) as entries:
                found = [parse_rank_log(Path(entry.path)) for entry in entries]
        except OSError:
            continue
        logs += [log for log in found if log is not None and selection.takes(log)]
    job = [Source(run.job_log)] if selection.job and run.job_log.exists() else []
    return [Source.of_rank(log) for log in sorted(logs)] + job


def known_places(run: RunDir) -> tuple[list[int], list[str]]:
    """(ranks, nodes) that have ever written a line."""
    sources = [source for source in find_sources(run, Selection(all=True)) if source.rank >= 0]
    return sorted({source.rank for source in sources}), list(dict.fromkeys(source.node for source in sources))


class FileTail:
    """Reads what was added to one file since the last look.

    A file that was replaced (another inode) or truncated is read from its start again.

    Args:
        offset: where to begin, in bytes; the start of a line.
        place: instead, where another tail of the same file was.
    """

    def __init__(self, source: Source, *, offset: int = 0, place: Place | None = None) -> None:
        place = place or Place(offset=offset)
        self.source = source
        self.offset = place.offset
        self._inode = place.inode
        self._rest = b""
        self._time = place.time

    @property
    def place(self) -> Place:
        """The end of the last whole line that was given."""
        return Place(self._inode, self.offset - len(self._rest), self._time)

    def read(self, *, to_end: bool = False) -> list[LogLine]:
        """Whole lines added since the last call, at most a block of them.

        Args:
            to_end: the writer is gone: also give a last line without its newline, and read to the end.
        """
        lines: list[LogLine] = []
        while True:
            data = self._read_block()
            lines += self.take(data)
            if not to_end or not data:
                break
        if to_end and self._rest:
            rest, self._rest = self._rest, b""
            lines.append(self._line(rest))
        return lines

    def _read_block(self) -> bytes:
        try:
            handle = os.open(self.source.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            state = os.fstat(handle)
            if (self._inode is not None and state.st_ino != self._inode) or state.st_size < self.offset:
                self.offset, self._rest = 0, b""
            self._inode = state.st_ino
            data = os.pread(handle, BLOCK_BYTES, self.offset)
        except OSError:
            return b""
        finally:
            os.close(handle)
        self.offset += len(data)
        return data

    def take(self, data: bytes) -> list[LogLine]:
        """The whole lines that end in the next bytes of the file."""
        if not data:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LONGEST_LINE_BYTES:
            lines.append(self._rest)
            self._rest = b""
        return [self._line(line) for line in lines]

    def _line(self, raw: bytes) -> LogLine:
        time, text = split_stamp(raw.decode("utf-8", errors="replace"))
        self._time = time if time is not None else self._time
        source = self.source
        return LogLine(self._time, source.incarnation, source.rank, source.node, text)


def shown_before(tails: Sequence[FileTail], echo: EchoFilter) -> None:
    """Tell a filter of the newest lines before the place of each tail, so that it leaves out their echoes."""
    streams = [_lines_before(tail) for tail in tails if tail.source.rank <= 0]
    for line in in_order(streams):
        echo.passes(line)


def _lines_before(tail: FileTail) -> list[LogLine]:
    """Whole lines of the last :data:`ECHO_BYTES` before a tail's place."""
    end = tail.place.offset
    start = max(0, end - ECHO_BYTES)
    try:
        with tail.source.path.open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
    except OSError:
        return []
    if start:
        data = data.partition(b"\n")[2]
    return FileTail(tail.source).take(data)


def read_all(sources: Sequence[Source]) -> Iterator[LogLine]:
    """All lines of several files in order of time, none of them twice."""
    echo = EchoFilter()
    return (line for line in in_order([_lines(FileTail(source)) for source in sources]) if echo.passes(line))


def read_last(sources: Sequence[Source], count: int) -> tuple[list[LogLine], list[FileTail]]:
    """The newest ``count`` lines over all files, in order of time, and tails that go on from there."""
    tails: list[FileTail] = []
    streams: list[list[LogLine]] = []
    for source in sources:
        tail = FileTail(source, offset=_offset_of_last(source.path, count))
        streams.append(_to_end(tail))
        tails.append(tail)
    echo = EchoFilter()
    newest = [line for line in in_order(streams) if echo.passes(line)]
    return newest[-count:] if count else [], tails


def _to_end(tail: FileTail) -> list[LogLine]:
    lines: list[LogLine] = []
    before = -1
    while tail.offset != before:
        before = tail.offset
        lines += tail.read()
    return lines


def _lines(tail: FileTail) -> Iterator[LogLine]:
    while True:
        before = tail.offset
        yield from tail.read()
        if tail.offset == before:
            yield from tail.read(to_end=True)
            return


def _offset_of_last(path: Path, count: int) -> int:
    """Where the last ``count`` lines of a file start; a little earlier, so that a line without a time finds one."""
    wanted = count + 1 + (20 if count else 0)
    try:
        with path.open("rb") as file:
            position = file.seek(0, os.SEEK_END)
            found = 0
            while position > 0:
                step = min(BLOCK_BYTES, position)
                position -= step
                file.seek(position)
                block = file.read(step)
                found += block.count(b"\n")
                if found >= wanted:
                    cut = -1
                    for _ in range(found - wanted + 1):
                        cut = block.index(b"\n", cut + 1)
                    return position + cut + 1
    except OSError:
        pass
    return 0
