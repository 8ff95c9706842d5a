"""Follow what a run prints until it ends, across restarts and requeues (service)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hpctrain.clock import Clock
from hpctrain.jobs.find import Run
from hpctrain.jobs.logs import EchoFilter, LineFormat, LogLine, Selection, in_order
from hpctrain.jobs.poll import Poller
from hpctrain.jobs.position import Position
from hpctrain.jobs.screen import Screen, progress_text
from hpctrain.jobs.status import JobStatus, State
from hpctrain.jobs.tail import BLOCK_BYTES, FileTail, Source, find_sources, read_all, read_last, shown_before
from hpctrain.jobs.text import duration, plural
from hpctrain.slurm.port import Slurm

QUICK_S, IDLE_S = 0.5, 2.0
"""Time between looks at the files: while lines come, and while none do."""
BLOCKS_PER_LOOK = 16
"""A rank that prints faster than this many blocks a look does not keep the others from being shown."""
MARKED_BYTES = 8 * 2**20
"""About so much is read between two positions that are told: a connection that breaks loses no more, and holds no more."""


@dataclass(frozen=True, slots=True)
class LogRequest:
    """What a person asked to see.

    Attributes:
        tail: start with the newest so many lines; None starts at the beginning.
        since: leave out lines older than this (seconds since the epoch).
    """

    selection: Selection = field(default_factory=Selection)
    tail: int | None = None
    since: float | None = None
    format: LineFormat = field(default_factory=LineFormat)

    def wants(self, line: LogLine) -> bool:
        """The line is not too old."""
        return self.since is None or line.time >= self.since


def show(run: Run, request: LogRequest, screen: Screen) -> int:
    """Print what there is, and return how many lines that were."""
    shown = 0
    for line in existing_lines(run, request):
        screen.lines([request.format.show(line)])
        shown += 1
    return shown


def follow(
    run: Run, slurm: Slurm | None, clock: Clock, screen: Screen, request: LogRequest | None = None, *,
    at: Position | None = None, mark: Callable[[dict[str, Any]], None] | None = None,
) -> JobStatus:
    """Print the run's lines as they come, until the run has ended; return its final status.

    While it is queued the reason is told; restarts and requeues are announced; files of new incarnations are picked
    up; a controller that does not answer is waited for. A KeyboardInterrupt passes through and harms nothing: see
    :func:`goodbye`.

    Args:
        at: go on from here instead of starting as the request says.
        mark: told, as plain data, what has changed of the position each time lines were printed; all of it together
            makes the position to go on from, with no line lost and none printed twice.
    """
    request = request or LogRequest()
    follower = _Follower(run, Poller(run, slurm, clock, say=screen.message), screen, request, mark)
    try:
        status = follower.poller.status()
        if at is not None:
            follower.go_on(at)
            follower.announce(status)
        else:
            follower.announce(status)
            follower.begin()
        pause = QUICK_S
        while True:
            status = follower.poller.status()
            follower.announce(status)
            if status.final:
                # What the last rank wrote may take a moment to be seen from another node.
                clock.sleep(QUICK_S)
                follower.catch_up()
            lines = follower.look(last=status.final)
            if status.final:
                screen.close()
                screen.message(how_it_ended(status))
                return status
            screen.progress(progress_text(status))
            pause = QUICK_S if lines else min(pause * 1.25, IDLE_S)
            if not follower.behind:
                clock.sleep(pause)
    finally:
        screen.close()


def how_it_ended(status: JobStatus) -> str:
    """The last message of following: state, why, and what to do next."""
    took = f" after {duration(status.elapsed_s)}" if status.elapsed_s is not None else ""
    head = f"{status.name} (job {status.id}) {status.state.value}{took}: {status.explanation}"
    more = status.advice or (f"hpctrain report {status.name}" if status.succeeded else "")
    return f"{head}\n{more}" if more else head


def goodbye(run: Run, command: str = "logs -f") -> str:
    """What to say when a person stops following with Ctrl-C: the job is not touched by that."""
    return f"stopped following; job {run.job_id} goes on. Follow it again: hpctrain {command} {run.name}"


class _Follower:
    def __init__(
        self, run: Run, poller: Poller, screen: Screen, request: LogRequest,
        mark: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.run, self.poller, self.screen, self.request = run, poller, screen, request
        self.behind = False
        self._mark = mark
        self._marked: Position | None = None
        self._turn = 0
        self._blocks = BLOCKS_PER_LOOK if mark is None else 1  # what is printed between two marks is lost with a connection
        self._tails: dict[str, FileTail] = {}
        self._announced: tuple[object, ...] = ()
        self._restarts = 0
        self._incarnation = -1
        self._echo = EchoFilter()

    def begin(self) -> None:
        """Print what there is, and remember where each file ended."""
        sources = find_sources(self.run.dir, self.request.selection)
        if self.request.tail is None:
            # Read by the tails themselves, so that nothing written meanwhile is missed or shown twice.
            self._tails = {str(source.path): FileTail(source) for source in sources}
            return
        lines, tails = read_last(sources, self.request.tail)
        self._tails = {str(tail.source.path): tail for tail in tails}
        self._print([line for line in lines if self.request.wants(line)])
        shown_before(tails, self._echo)
        self._tell_position()

    def go_on(self, at: Position) -> None:
        """Begin where another process stopped; what was shown may still come once more as an echo in another file."""
        for source in find_sources(self.run.dir, self.request.selection):
            self._tails[str(source.path)] = FileTail(source, place=at.files.get(self._name(source)))
        shown_before(list(self._tails.values()), self._echo)
        self._announced, self._restarts, self._incarnation = at.announced, at.restarts, at.incarnation
        self._marked = at

    def _name(self, source: Source) -> str:
        return source.path.relative_to(self.run.dir.path).as_posix()

    def _tell_position(self) -> None:
        if self._mark is None:
            return
        files = {self._name(tail.source): tail.place for tail in self._tails.values()}
        announced = tuple(part.value if isinstance(part, State) else part for part in self._announced)
        now = Position(files, self._incarnation, self._restarts, announced)
        if now != self._marked:
            changes = now.to_json(self._marked)
            self._marked = now
            self._mark(changes)

    def announce(self, status: JobStatus) -> None:
        """Say what changed about the job."""
        now = (status.state, status.reason, status.restarts)
        if now == self._announced or status.final:
            return
        waiting = status.state in (State.QUEUED, State.HELD, State.REQUEUED, State.SUSPENDED, State.UNKNOWN)
        was = self._announced[0] if self._announced else None
        self._announced = now
        head = f"job {status.id} {status.state.value}"
        if self.poller.lifted_delay and status.state is State.REQUEUED:
            # The poller has said what it did about the delay; the explanation of the delay is out of date.
            return
        if waiting:
            self.screen.message(f"{head}: {status.explanation}" + (f"\n{status.advice}" if status.advice else ""))
        elif status.restarts > self._restarts and was is not None:
            self.screen.message(f"{head} again, restart {status.restarts}")
        elif was is None or State(was) in (State.QUEUED, State.HELD, State.REQUEUED, State.SUSPENDED, State.UNKNOWN):
            nodes = f" on {plural(status.num_nodes, 'node')}" if status.num_nodes else ""
            self.screen.message(f"{head}{nodes}")
        elif status.state is State.STOPPING:
            self.screen.message(f"{head}: {status.explanation}")
        self._restarts = max(self._restarts, status.restarts)

    def catch_up(self) -> None:
        """Where positions are told: print all there is, piece by piece, so that one last look has little left to do."""
        self.behind = self._mark is not None
        while self.behind:
            self.look()

    def look(self, *, last: bool = False) -> int:
        """Print what is new, and return how many lines that were."""
        for source in find_sources(self.run.dir, self.request.selection):
            self._tails.setdefault(str(source.path), FileTail(source))
        # The agents write rank 0's line to its own file first, then to the batch step's: read in the other order, a line
        # that is seen here is seen there too, and is shown as the rank's.
        job_first = sorted(self._tails.values(), key=lambda tail: (tail.source.rank >= 0, tail.source.rank))
        self.behind = False
        batches = [self._new_lines(tail, last=last) for tail in (job_first if last else self._in_turn(job_first))]
        batches.sort(key=lambda batch: bool(batch) and batch[0].rank < 0)
        lines = [line for line in in_order(batches) if self.request.wants(line) and self._echo.passes(line)]
        self._print(lines)
        self._tell_position()
        return len(lines)

    def _in_turn(self, tails: list[FileTail]) -> Iterator[FileTail]:
        """All tails; where positions are told, those whose turn it is, and the first ones always."""
        if self._mark is None:
            yield from tails
            return
        first, others = [tail for tail in tails if tail.source.rank <= 0], [tail for tail in tails if tail.source.rank > 0]
        turn = self._turn if self._turn < len(others) else 0
        read = 0
        for number, tail in enumerate(first + others[turn:] + others[:turn]):
            if read > MARKED_BYTES and number >= len(first):
                self.behind, self._turn = True, (turn + number - len(first)) % len(others)
                return
            before = tail.offset
            yield tail
            read += tail.offset - before

    def _new_lines(self, tail: FileTail, *, last: bool) -> list[LogLine]:
        if last:
            return tail.read(to_end=True)
        lines: list[LogLine] = []
        for _ in range(self._blocks):
            before = tail.offset
            lines += tail.read()
            if tail.offset == before:
                return lines
        self.behind |= self._mark is not None and tail.offset - before >= BLOCK_BYTES
        return lines

    def _print(self, lines: list[LogLine]) -> None:
        ready: list[str] = []
        for line in lines:
            if line.rank >= 0 and line.incarnation > self._incarnation:
                if self._incarnation >= 0:
                    self.screen.lines(ready)
                    ready = []
                    self.screen.message(f"--- the ranks were started again (incarnation {line.incarnation}) ---")
                self._incarnation = line.incarnation
            ready.append(self.request.format.show(line))
        self.screen.lines(ready)


def existing_lines(run: Run, request: LogRequest) -> Iterable[LogLine]:
    """Lines written so far, in order of time."""
    sources: list[Source] = find_sources(run.dir, request.selection)
    if request.tail is not None:
        return (line for line in read_last(sources, request.tail)[0] if request.wants(line))
    return (line for line in read_all(sources) if request.wants(line))
