"""Keeper and writer are started again when they die, and gone when the agent is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.agent.tier_processes import Helper, TierProcesses
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.clock import SystemClock
from hpctrain.jobs.event import Event
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter


def eventually(what: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Started:
    """Processes of a helper, with what the warden was told of them."""

    def __init__(self, path: Path, argv: tuple[str, ...] = ("sleep", "1000"), fail: int = 0) -> None:
        self.path, self.argv, self.fail = path, argv, fail
        self.processes: list[process.Popen[bytes]] = []
        self.watched: list[int] = []
        self.forgotten: list[int] = []
        self.helper = Helper("keeper", self._start, "its memory is lost")
        self.tiers = TierProcesses(
            [self.helper], node="n1", events=EventWriter(path, "agent", "n1"), clock=SystemClock(),
            watch=self.watched.append, forget=self.forgotten.append,
        )

    def _start(self) -> process.Popen[bytes]:
        if self.fail:
            self.fail -= 1
            raise WireError("it did not start")
        self.processes.append(process.start(self.argv))
        return self.processes[-1]

    def events(self) -> list[Event]:
        return read_events(RunDir(self.path))


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Start a helper; it is ended with the test."""
    made: list[Started] = []

    def build(**options: object) -> Started:
        made.append(Started(tmp_path, **options))  # type: ignore[arg-type]
        made[-1].tiers.start()
        return made[-1]

    yield build
    for one in made:
        one.tiers.stop()


def test_a_killed_process_is_started_again(begin: Callable[..., Started]) -> None:
    """SIGKILL: another one follows, the events say what died, of what, what that cost, and that it is back."""
    one = begin()
    assert eventually(lambda: len(one.watched) == 1)
    os.kill(one.processes[0].pid, signal.SIGKILL)
    assert eventually(lambda: len(one.watched) == 2 and len(one.events()) == 2)

    died, back = one.events()
    assert ("checkpoint.degraded", "checkpoint.recovered") == (died.kind, back.kind)
    assert "the keeper of checkpoints on n1 was killed by SIGKILL: its memory is lost" == died.reason
    assert [one.processes[0].pid] == one.forgotten


def test_one_that_cannot_start_is_tried_again_and_told_once(begin: Callable[..., Started]) -> None:
    """Two failures to start are one event; the third try works, and that is another."""
    one = begin(fail=2)
    assert eventually(lambda: len(one.watched) == 1 and len(one.events()) == 2)

    assert ["checkpoint.degraded", "checkpoint.recovered"] == [event.kind for event in one.events()]


def test_an_end_without_error_is_no_event(begin: Callable[..., Started]) -> None:
    """A writer whose keeper is gone ends with 0: it is started again, and nobody is alarmed."""
    one = begin(argv=("true",))
    assert eventually(lambda: len(one.watched) >= 3)

    assert [] == one.events()


def test_signals_of_slurm_do_not_end_it(begin: Callable[..., Started]) -> None:
    """Slurm sends SIGTERM to every process of a step; these two outlive it, because they have work left."""
    one = begin()
    assert eventually(lambda: len(one.watched) == 1)
    os.kill(one.processes[0].pid, signal.SIGTERM)
    os.kill(one.processes[0].pid, signal.SIGUSR1)
    blocked = f"/proc/{one.processes[0].pid}/status"
    mask = next(line for line in Path(blocked).read_text().splitlines() if line.startswith("SigBlk"))

    assert int(mask.split()[1], 16) & (1 << (signal.SIGTERM - 1))
    assert one.processes[0].poll() is None


def test_a_restart_on_purpose_is_no_event(begin: Callable[..., Started]) -> None:
    """A process that is ended to be replaced is replaced, and nobody is alarmed."""
    one = begin()
    assert eventually(lambda: len(one.watched) == 1)
    one.tiers.restart("keeper")
    assert eventually(lambda: len(one.watched) == 2)

    assert -signal.SIGKILL == one.processes[0].returncode
    assert [] == one.events()


def test_nothing_is_left(begin: Callable[..., Started]) -> None:
    """After the end there is no process, and the warden has been told so."""
    one = begin()
    assert eventually(lambda: len(one.watched) == 1)
    one.tiers.stop()

    assert -signal.SIGKILL == one.processes[0].returncode
    assert one.watched == one.forgotten


def test_one_that_dies_at_once_again_and_again_is_one_event(begin: Callable[..., Started]) -> None:
    """A program that cannot even begin is tried with growing delays and told of once, not at every try."""
    one = begin(argv=("false",))
    assert eventually(lambda: len(one.watched) >= 4)

    assert ["checkpoint.degraded"] == [event.kind for event in one.events()]
