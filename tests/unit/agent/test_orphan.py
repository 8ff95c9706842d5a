"""What an agent makes of a coordinator that it hears nothing of, and how the one before it is ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpctrain.agent import local_dir, predecessor
from hpctrain.agent.orphan import ORPHAN_S, Fate, fate

LATE = ORPHAN_S + 1


@pytest.mark.parametrize(("silent", "unchanged", "restarts", "state", "expected"), [
    (1.0, 1.0, 0, "run", Fate.WAIT),
    (LATE, LATE, 0, "run", Fate.ALONE),
    (LATE, LATE, None, "", Fate.ALONE),
    (LATE, 2.0, 0, "run", Fate.LEAVE),
    (LATE, 2.0, 0, "orphans", Fate.ALONE),
    (1.0, 1.0, 1, "run", Fate.LEAVE),
    (6.0, 6.0, 0, "over", Fate.LEAVE),
    (1.0, 1.0, 0, "over", Fate.WAIT),
])
def test_fate(silent: float, unchanged: float, restarts: int | None, state: str, expected: Fate) -> None:
    """A dead coordinator leaves the agent alone; a living one, or another start of the job, has no use for it."""
    found, why = fate(silent, unchanged, restarts=0, seen_restarts=restarts, seen_state=state)

    assert (expected, expected is Fate.WAIT) == (found, not why)


def test_an_agent_ends_its_predecessor_and_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same job and same node: killed, also when it is stopped; another node of the same host lives, and so does a stranger
    who got the number of a dead agent.
    """
    monkeypatch.setattr(local_dir.tempfile, "gettempdir", lambda: str(tmp_path))
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(3)]
    try:
        for sleeper, node, shift in zip(sleepers, ("n1", "n1-2", "n1"), ("", "", "9"), strict=True):
            folder = tmp_path / f"hpctrain-{os.getuid()}-7-{node}-{sleeper.pid}"
            folder.mkdir()
            note = {"job": "7", "node": node, "pid": sleeper.pid, "started": predecessor._started(sleeper.pid) + shift}
            (folder / predecessor.NOTE).write_text(json.dumps(note))

        assert [sleepers[0].pid] == predecessor.end_predecessors("7", "n1")
        assert -9 == sleepers[0].wait(10)
        time.sleep(0.05)
        assert [None, None] == [sleeper.poll() for sleeper in sleepers[1:]]
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
