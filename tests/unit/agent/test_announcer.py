"""What is said of a job's coordinator, and where."""

from __future__ import annotations

import json
from pathlib import Path

from hpctrain.agent.announcer import announce
from hpctrain.agent.coordinator_file import CoordinatorState, read_state
from hpctrain.agent.orphan import ORPHANS
from hpctrain.jobs.layout import RunDir

STATE = CoordinatorState(10.0, 3, "n2", 0, 0, 7, 1, 4, ORPHANS, addr="10.0.0.1", port=4711)


def test_a_watchdog_of_the_cluster_hears_of_it_too(tmp_path: Path) -> None:
    """In the run directory with all that agents need, in the site's spool without addresses."""
    run_dir, spool = RunDir(tmp_path / "run"), tmp_path / "spool"
    spool.mkdir()
    announce(run_dir, STATE, str(spool))
    assert read_state(run_dir) == STATE
    shown = json.loads((spool / "job-7.json").read_text())
    assert (shown["state"], shown["beat"], shown["job"]) == (ORPHANS, 3, 7) and "addr" not in shown and "pid" not in shown


def test_a_spool_that_cannot_be_written_disturbs_nobody(tmp_path: Path) -> None:
    """It is left out, as it is where there is none."""
    run_dir = RunDir(tmp_path / "run")
    announce(run_dir, STATE, str(tmp_path / "none"))
    announce(run_dir, STATE, "")
    assert read_state(run_dir) == STATE
