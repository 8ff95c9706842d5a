"""The file of a run's failures."""

from __future__ import annotations

import stat
import sys
from dataclasses import replace
from pathlib import Path

from hpctrain import process
from hpctrain.jobs.layout import RunDir
from hpctrain.watchdog import attempts
from hpctrain.watchdog.budget import Attempt, Cause

ONE = Attempt(1.5, Cause.NODE, "R2", 0, 12, True, "", ("n1",), "node n1 was lost")
TWO = Attempt(2.5, Cause.RANK, "R1", 1, None, False, "ValueError: boom")


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    """In order, private, and [] before the first."""
    run = RunDir(tmp_path / "run")
    assert attempts.read(run) == []
    attempts.append(run, ONE)
    attempts.append(run, TWO)
    assert attempts.read(run) == [ONE, TWO]
    assert stat.S_IMODE(attempts.attempts_path(run).stat().st_mode) == 0o600


def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    """A crash in the middle of a line loses that line and no other, also not the one written after it."""
    run = RunDir(tmp_path / "run")
    attempts.append(run, ONE)
    with attempts.attempts_path(run).open("ab") as file:
        file.write(b'{"time":2.0,"cause":"ra')
    assert attempts.read(run) == [ONE]
    attempts.append(run, TWO)
    assert attempts.read(run) == [ONE, TWO]


def test_the_end_of_a_start_is_counted_once(tmp_path: Path) -> None:
    """Coordinator, agents and watchdog may all see it; what a start survived, and another start, are something else."""
    run = RunDir(tmp_path / "run")
    end = Attempt(3.0, Cause.COORDINATOR, "R3", 4, None, True, message="the coordinator is gone", job=7, restarts=1)
    assert attempts.append(run, end)
    assert not attempts.append(run, replace(end, time=9.0, cause=Cause.NODE, rung="R4", message="seen by somebody else"))
    for other in (replace(end, rung="R1"), replace(end, restarts=2), replace(end, job=8), replace(end, cause=Cause.PROLOG)):
        assert attempts.append(run, other)
    assert [(one.job, one.restarts, one.rung) for one in attempts.read(run)] == [
        (7, 1, "R3"), (7, 1, "R1"), (7, 2, "R3"), (8, 1, "R3"), (7, 1, "R3")]


def test_many_who_count_at_the_same_time_count_once(tmp_path: Path) -> None:
    """Processes that come at the same moment are told apart by a lock."""
    run = RunDir(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from hpctrain.jobs.layout import RunDir;"
        "from hpctrain.watchdog import attempts;"
        "from hpctrain.watchdog.budget import Attempt, Cause;"
        "attempts.append(RunDir(Path(sys.argv[1])), Attempt(1.0, Cause.NODE, 'R3', 0, None, True, job=7, restarts=0))"
    )
    children = [process.start([sys.executable, "-c", code, str(run.path)]) for _ in range(4)]
    assert [child.wait(timeout=60) for child in children] == [0] * 4
    assert len(attempts.read(run)) == 1


def test_half_a_surrogate_in_a_message_is_kept(tmp_path: Path) -> None:
    """A message with a file name that is no UTF-8 is written and read back as it was."""
    run = RunDir(tmp_path / "run")
    attempts.append(run, replace(ONE, message="no file 'caf\udce9'"))
    assert attempts.read(run)[0].message == "no file 'caf\udce9'"
