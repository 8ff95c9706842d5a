"""The file of a run's failures."""

from __future__ import annotations

import stat
from pathlib import Path

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
