"""What the agents' side says and does when the run directory cannot be written."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.agent.coordinator import Coordinator
from hpctrain.clock import SystemClock
from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.recipe.schema import Recipe
from hpctrain.slurm.port import Submission
from hpctrain.submit.plan import Place, make_plan
from hpctrain.testing.fake_slurm import FakeSlurm

needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full stands for the full disk")
FULL_STDERR = ("sh", "-c", 'exec "$0" "$@" 2>/dev/full', sys.executable)
"""Python with a standard error that takes nothing."""


def coordinator(path: Path, said: list[str], srun: str = "exit 0") -> Coordinator:
    """One node, on which ``srun`` is a line of shell; the first failure is final."""
    recipe = Recipe.model_validate({
        "version": 1, "name": "cmd", "command": ["train.py"], "workdir": "/work", "resilience": {"max_restarts": 0},
    })
    plan = make_plan(recipe, None, Place("run-1", str(path), sys.executable))
    path.mkdir()
    run_dir, clock, slurm = RunDir(path), SystemClock(), FakeSlurm(["n1"])
    job_id = slurm.submit(Submission("#!/bin/bash\n#SBATCH --job-name=cmd\n#SBATCH --nodes=1\n", str(path)))
    return Coordinator(
        plan, srun=("sh", "-c", srun), nodes=[NodeName("n1")], job_id=JobId(job_id), slurm=slurm,
        events=EventWriter(run_dir, "coordinator", "n1", clock, job_id), clock=clock, env=dict(os.environ),
        lift_delay=lambda job_id, run_dir, exclude: None, say=said.append,
    )


def test_agents_that_never_call_end_the_start_with_sruns_code(tmp_path: Path) -> None:
    """An srun that cannot start anything is the failure, and is named with its exit code."""
    said: list[str] = []
    made = coordinator(tmp_path / "run-1", said, "exit 3")
    assert made.run() == 3
    assert "srun ended with exit code 3" in said[-1]


def test_start_that_cannot_be_recorded_fails_with_the_cause(tmp_path: Path) -> None:
    """Where the number of the start cannot be written, nothing is started: exit code 9 and an event that says why."""
    said: list[str] = []
    made = coordinator(tmp_path / "run-1", said, "touch started")
    made.run_dir.control.write_text("a file where the directory belongs: no right to write helps root here")
    assert made.run() == 9
    assert "cannot be recorded" in said[-1] and "cannot write" in said[-1]
    (event,) = read_events(made.run_dir)
    assert (event.kind, event.evidence["exit_code"]) == ("job.failed", 9)


@needs_dev_full
def test_full_job_log_does_not_change_the_exit_code(tmp_path: Path) -> None:
    """When even the message finds no space the coordinator still ends with the error's own code."""
    gone = tmp_path / "gone"
    env = {**os.environ, "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1"}
    words = ("-m", "hpctrain.agent", "coordinate", "--run-dir", str(gone), "--", "true")
    assert process.run([*FULL_STDERR, *words], timeout_s=30, env=env).returncode == 9


@needs_dev_full
def test_event_that_cannot_be_written_nor_told_is_dropped(tmp_path: Path) -> None:
    """Noting an event never raises, also with a full standard error."""
    code = (
        "import sys; from hpctrain.jobs.writer import EventWriter\n"
        "sys.exit(5 if EventWriter(sys.argv[1], 'agent', 'n1').note('job.started') is False else 6)"
    )
    assert process.run([*FULL_STDERR, "-c", code, str(tmp_path / "gone" / "gone")], timeout_s=30).returncode == 5
