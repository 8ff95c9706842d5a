"""Run probes in children that can be abandoned (adapter over fork, pipes and signals).

A wedged driver or a dead file server blocks its caller inside the kernel, where no Python timeout helps and even SIGKILL
waits. So each probe has a child of its own: a session of its own, standard streams closed, nothing inherited but one pipe.
The parent takes what has arrived at the deadline, kills the child and goes on whether or not it dies.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.health.reading import ProbeState

_STEP_BYTES = 512
_ORPHAN_S = 10.0
_MAX_BYTES = 64 * 2**20
"""More than this from one probe is a fault of the probe, not a reading."""


class Report:
    """What a probe tells its parent, while it goes.

    :meth:`step` costs no system call: it writes into memory that parent and child share, so that the parent can name the
    very call that never returned.
    """

    def __init__(self, pipe: int, memory: mmap.mmap) -> None:
        self._pipe = pipe
        self._memory = memory

    def step(self, text: str) -> None:
        """What will be done next."""
        data = text.encode()[: _STEP_BYTES - 1]
        self._memory[: len(data) + 1] = data + b"\0"

    def emit(self, **record: Any) -> None:
        """One part of the answer; it reaches the parent even if the next part never comes."""
        data = memoryview((json.dumps(record) + "\n").encode())
        while data:
            data = data[os.write(self._pipe, data) :]


@dataclass(frozen=True, slots=True)
class Probe:
    """Something to find out.

    Attributes:
        read: runs in the child, and may block for ever.
        deadline_s: how long it may take.
    """

    name: str
    read: Callable[[Report], None]
    deadline_s: float


@dataclass(slots=True)
class Answer:
    """What came back.

    Attributes:
        records: in the order in which they were emitted.
        abandoned: pid of a child that was killed and has not died yet; 0 if there is none.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    state: ProbeState = field(default_factory=lambda: ProbeState("skipped"))
    abandoned: int = 0


@dataclass(slots=True)
class _Child:
    probe: Probe
    pid: int
    pipe: int
    memory: mmap.mmap
    started: float
    data: bytearray = field(default_factory=bytearray)

    @property
    def deadline(self) -> float:
        return self.started + self.probe.deadline_s

    def step(self) -> str:
        return bytes(self.memory[:]).split(b"\0")[0].decode(errors="replace")


class Probing:
    """Probes that run; made by :func:`start_probes`."""

    def __init__(self, children: list[_Child]) -> None:
        self._children = children

    def collect(self) -> dict[str, Answer]:
        """Wait for each probe to end or to reach its deadline; never longer."""
        answers: dict[str, Answer] = {}
        poll = select.poll()
        waiting = {child.pipe: child for child in self._children}
        for pipe in waiting:
            poll.register(pipe, select.POLLIN)
        while waiting:
            now = time.monotonic()
            for child in [child for child in waiting.values() if now >= child.deadline]:
                self._close(poll, waiting, child)
                answers[child.probe.name] = _abandon(child, now)
            if not waiting:
                break
            wait_s = min(child.deadline for child in waiting.values()) - now
            for pipe, _ in poll.poll(max(0.0, wait_s) * 1000 + 1):
                child = waiting[pipe]
                if not _receive(child):
                    self._close(poll, waiting, child)
                    answers[child.probe.name] = _finish(child)
        return answers

    @staticmethod
    def _close(poll: select.poll, waiting: dict[int, _Child], child: _Child) -> None:
        poll.unregister(child.pipe)
        del waiting[child.pipe]
        os.close(child.pipe)


def start_probes(probes: Sequence[Probe]) -> Probing:
    """Fork one child for each probe."""
    return Probing([_fork(probe) for probe in probes])


def run_probes(probes: Sequence[Probe]) -> Mapping[str, Answer]:
    """Start the probes and collect what they say."""
    return start_probes(probes).collect()


def _fork(probe: Probe) -> _Child:
    memory = mmap.mmap(-1, _STEP_BYTES)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _be_child(probe, Report(writer, memory), writer)
    os.close(writer)
    os.set_blocking(reader, False)
    return _Child(probe, pid, reader, memory, started)


def _be_child(probe: Probe, report: Report, writer: int) -> None:
    code = 1
    try:
        isolate(keep=writer)
        # Nobody ends us if our parent is killed first.
        signal.setitimer(signal.ITIMER_REAL, probe.deadline_s + _ORPHAN_S)
        probe.read(report)
        code = 0
    except BaseException as error:  # noqa: BLE001 - the child of a prolog must end here, whatever happened
        with contextlib.suppress(BaseException):
            report.step(f"{report_step(report)}: {error!r}".lstrip(": "))
    finally:
        os._exit(code)


def report_step(report: Report) -> str:
    """The step a report stands at."""
    return bytes(report._memory[:]).split(b"\0")[0].decode(errors="replace")


def isolate(keep: int) -> None:
    """Leave the caller's session and descriptors behind: Slurm waits for whoever holds its pipes."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.closerange(3, keep)
    os.closerange(keep + 1, max(keep + 1, 1024))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _receive(child: _Child) -> bool:
    """Take what is there; False at the end."""
    try:
        data = os.read(child.pipe, 1 << 20)
    except BlockingIOError:
        return True
    child.data += data
    return bool(data) and len(child.data) < _MAX_BYTES


def _records(data: bytes) -> list[dict[str, Any]]:
    found = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError):  # the last line of a child that was killed is torn
            record = json.loads(line)
            if isinstance(record, dict):
                found.append(record)
    return found


def _finish(child: _Child) -> Answer:
    took = time.monotonic() - child.started
    status = 1
    # Its pipe is closed, so it has nothing more to do than to end; it may still be stuck in doing so.
    for _ in range(100):
        pid, status = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.001)
    else:
        return _abandon(child, time.monotonic())
    ok = status == 0
    state = ProbeState("ok" if ok else "crashed", "" if ok else child.step() or f"wait status {status}", took)
    return Answer(_records(bytes(child.data)), state)


def _abandon(child: _Child, now: float) -> Answer:
    step = child.step()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child.pid, signal.SIGKILL)
    pid = 0
    for _ in range(20):
        pid, _ = os.waitpid(child.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(0.001)
    return Answer(_records(bytes(child.data)), ProbeState("timeout", step, now - child.started), 0 if pid else child.pid)
