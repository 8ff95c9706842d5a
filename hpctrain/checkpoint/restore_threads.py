"""Work that may never come to an end, bounded (adapter over threads).

A thread that hangs in a dead file system cannot be killed. So it is given up: it is a daemon, which stops no process from
ending, nobody waits for it, and the memory that it was to fill is never used again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeVar

from hpctrain.checkpoint.shard_reader import DamagedError

T = TypeVar("T")

_LOOK_S = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a restore waits, in seconds.

    Attributes:
        list_s: for a tier to say what it holds.
        open_s: for the proof that a checkpoint, or a part, is complete. The keeper may have to finish hashing it.
        read_s: for one piece (64 MiB at most).
        round_s: for all pieces that one rank reads between two exchanges with the others.
        ranks_s: for the other ranks; longer than all of the above together, so that only a rank that is stuck in itself,
            or gone without a trace, lets the others run into it.
    """

    list_s: float = 30.0
    open_s: float = 90.0
    read_s: float = 120.0
    round_s: float = 600.0
    ranks_s: float = 900.0


class HungError(OSError):
    """Something did not answer in time; the message says what, and how long."""


def bounded(work: Callable[[], T], timeout_s: float, what: str) -> T:
    """The result of ``work``, or its error.

    Raises:
        HungError: it takes longer; it is given up.
    """
    box: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            box.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again, where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="hpctrain-restore")
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not box:
        raise HungError(f"{what} does not answer for {timeout_s:g} s")
    return box[0]


@dataclass(slots=True, eq=False)
class Read:
    """One read.

    Attributes:
        source: what it is read from: of one that hangs nothing more is asked.
        target: memory to fill; never used again if the read hangs.
        work: fills it, or raises.
        reason: why it failed; "" for not at all.
        hung: it was given up.
    """

    source: Hashable
    target: memoryview
    work: Callable[[memoryview], None]
    reason: str = ""
    hung: bool = False


@dataclass(slots=True)
class _State:
    queue: deque[Read]
    missing: int
    done_bytes: int = 0
    running: dict[int, tuple[Read, float]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)


class ReadCrew:
    """Reads in several threads at a time.

    Args:
        threads: at a time.
        limits: ``read_s`` and ``round_s`` count.
    """

    def __init__(self, threads: int, limits: Limits) -> None:
        self._threads, self._limits = threads, limits
        self._dead: dict[Hashable, str] = {}

    def run(self, reads: Sequence[Read], on_bytes: Callable[[int], None]) -> None:
        """Do all of it; what became of each stands in it when this returns.

        Args:
            on_bytes: told now and then, in this thread, the bytes that have been read so far.
        """
        state = _State(deque(reads), len(reads))
        self._refuse(state)
        for _ in range(min(self._threads, len(state.queue))):
            self._start(state)
        deadline = time.monotonic() + self._limits.round_s
        with state.changed:
            while state.missing:
                state.changed.wait(_LOOK_S)
                self._give_up(state, deadline)
                on_bytes(state.done_bytes)

    def _start(self, state: _State) -> None:
        threading.Thread(target=_work, args=(state,), daemon=True, name="hpctrain-restore").start()

    def _give_up(self, state: _State, deadline: float) -> None:
        now = time.monotonic()
        for key, (read, since) in list(state.running.items()):
            if now < deadline and now - since < self._limits.read_s:
                continue
            del state.running[key]  # its thread ends when it comes to itself and finds that
            read.hung, read.reason = True, f"it does not answer for {now - since:.0f} s"
            self._dead.setdefault(read.source, read.reason)
            state.missing -= 1
            self._refuse(state)
            if state.queue:
                self._start(state)

    def _refuse(self, state: _State) -> None:
        """What would be read from a source that hangs is not begun."""
        refused = [read for read in state.queue if read.source in self._dead]
        if not refused:
            return
        state.queue = deque(read for read in state.queue if read.source not in self._dead)
        state.missing -= len(refused)
        for read in refused:
            read.hung, read.reason = True, self._dead[read.source]


def _work(state: _State) -> None:
    while True:
        with state.changed:
            if not state.queue:
                return
            read = state.queue.popleft()
            state.running[id(read)] = (read, time.monotonic())
        reason = _attempt(read)
        with state.changed:
            if state.running.pop(id(read), None) is None:
                return
            read.reason = reason
            state.missing -= 1
            state.done_bytes += 0 if reason else len(read.target)
            if not state.missing:
                state.changed.notify_all()


def _attempt(read: Read) -> str:
    try:
        read.work(read.target)
    except DamagedError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - whatever it is, there may be another source
        return f"{type(error).__name__}: {error}"
    return ""


class Pulse:
    """Tells progress again every second, also while this rank waits for others.

    Args:
        progress: told bytes that are done, and of all.
        limit_s: without any step forward of this rank for so long it says no more: whoever watches shall notice.
    """

    def __init__(self, progress: Callable[[int, int], None] | None, limit_s: float, *, every_s: float = 1.0) -> None:
        self._progress, self._limit_s, self._every_s = progress, limit_s, every_s
        self._lock, self._end = threading.Lock(), threading.Event()
        self._last, self._since = (0, 0), time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """A step forward."""
        with self._lock:
            self._last, self._since = (done, total), time.monotonic()
            if self._progress is not None:
                self._progress(done, total)

    def alive(self) -> None:
        """Another step forward."""
        self(*self._last)

    def __enter__(self) -> Pulse:
        if self._progress is not None:
            threading.Thread(target=self._beat, daemon=True, name="hpctrain-restore-pulse").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        with self._lock:  # not in the middle of a call: the caller may close what it writes to
            self._end.set()

    def _beat(self) -> None:
        while not self._end.wait(self._every_s):
            with self._lock:
                if self._end.is_set():
                    return
                if self._progress is not None and time.monotonic() - self._since < self._limit_s:
                    self._progress(*self._last)
