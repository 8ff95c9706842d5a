"""What the coordinator makes of Slurm's answers when it has its own job queued again."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.agent import requeue_alone
from hpctrain.agent.coordinator import Coordinator
from hpctrain.agent.requeue_alone import RequeueAlone
from hpctrain.clock import SystemClock
from hpctrain.errors import SlurmError
from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.recipe.schema import Recipe
from hpctrain.slurm.model import JobState
from hpctrain.slurm.port import Submission
from hpctrain.submit.plan import Place, make_plan
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm
from hpctrain.watchdog import attempts
from hpctrain.watchdog.budget import Attempt, Cause


class QuickSlurm(FakeSlurm):
    """Ends the start so soon that the command which asks for it gives no answer any more."""

    def requeue(self, job_id: JobId, *, hold: bool = False) -> None:
        super().requeue(job_id, hold=hold)
        raise SlurmError(f"cannot requeue job {job_id}: Slurm did not say why")


def test_requeue_whose_answer_was_lost_is_no_failure(tmp_path: Path) -> None:
    """A job that is queued again is not called failed because scontrol was ended before it could say so."""
    recipe = Recipe.model_validate({"version": 1, "name": "cmd", "command": ["train.py"], "workdir": "/work"})
    path, said = tmp_path / "run-1", list[str]()
    plan = make_plan(recipe, None, Place("run-1", str(path), sys.executable))
    path.mkdir()
    run_dir, clock, slurm = RunDir(path), SystemClock(), QuickSlurm(["n1"])
    job_id = slurm.submit(Submission("#!/bin/bash\n#SBATCH --job-name=cmd\n#SBATCH --nodes=1\n", str(path)))
    made = Coordinator(
        plan, srun=("sh", "-c", "exit 1"), nodes=[NodeName("n1")], job_id=JobId(job_id), slurm=slurm,
        events=EventWriter(run_dir, "coordinator", "n1", clock, job_id), clock=clock, env=dict(os.environ),
        lift_delay=lambda job_id, run_dir, exclude: None, say=said.append,
    )

    assert 0 == made.run()
    assert ["job.started", "job.requeued"] == [event.kind for event in read_events(run_dir)]


def test_agents_and_watchdog_count_one_failure_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever of them comes second, to the end of the same start of the job, counts nothing and queues nothing again."""
    monkeypatch.setattr(requeue_alone, "start_helper", lambda *_: None)
    recipe = Recipe.model_validate({"version": 1, "name": "cmd", "command": ["train.py"], "workdir": "/work"})
    path = tmp_path / "run-1"
    plan = make_plan(recipe, None, Place("run-1", str(path), sys.executable))
    path.mkdir()
    run_dir, clock = RunDir(path), FakeClock()
    slurm = FakeSlurm(["n1", "n2"], clock=clock)
    job_id = JobId(slurm.submit(Submission("#!/bin/bash\n#SBATCH --job-name=cmd\n#SBATCH --nodes=2\n", str(path))))

    def agent(restarts: int = 0) -> bool:
        events = EventWriter(run_dir, "agent", "n2", clock, job_id)
        return RequeueAlone(plan, run_dir, job_id, restarts, slurm=slurm, events=events, clock=clock).requeue("gone", 0)

    seen = Attempt(
        clock.time(), Cause.COORDINATOR, "R3", 0, None, True, message="seen by the watchdog", job=job_id, restarts=0,
    )
    assert attempts.append(run_dir, seen)
    assert agent() and slurm.jobs([job_id])[0].restarts == 1
    assert not agent() and slurm.calls.count("requeue") == 1
    assert [one.message for one in attempts.read(run_dir)] == ["seen by the watchdog"]

    clock.advance(200)
    assert slurm.jobs([job_id])[0].state is JobState.RUNNING
    assert agent(1) and not attempts.append(run_dir, replace(seen, restarts=1))
    assert [one.message for one in attempts.read(run_dir)] == ["seen by the watchdog", "gone"]


def test_agents_stop_what_the_coordinator_had_decided_to_stop(tmp_path: Path) -> None:
    """It had written the verdict down and died before it could act on it."""
    recipe = Recipe.model_validate({"version": 1, "name": "cmd", "command": ["train.py"], "workdir": "/work"})
    path = tmp_path / "run-1"
    plan = make_plan(recipe, None, Place("run-1", str(path), sys.executable))
    path.mkdir()
    run_dir, clock = RunDir(path), FakeClock()
    slurm = FakeSlurm(["n1", "n2"], clock=clock)
    job_id = JobId(slurm.submit(Submission("#!/bin/bash\n#SBATCH --job-name=cmd\n#SBATCH --nodes=2\n", str(path))))
    attempts.append(run_dir, Attempt(1.0, Cause.RANK, "R4", 0, 7, True, message="ValueError: boom", job=job_id, restarts=0))
    events = EventWriter(run_dir, "agent", "n2", clock, job_id)
    assert not RequeueAlone(plan, run_dir, job_id, 0, slurm=slurm, events=events, clock=clock).requeue("gone", 0)
    assert slurm.jobs([job_id])[0].state is JobState.CANCELLED
    assert ["job.failed"] == [event.kind for event in read_events(run_dir)]
