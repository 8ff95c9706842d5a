"""What the coordinator makes of Slurm's answers when it has its own job queued again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hpctrain.agent.coordinator import Coordinator
from hpctrain.clock import SystemClock
from hpctrain.errors import SlurmError
from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.writer import EventWriter
from hpctrain.recipe.schema import Recipe
from hpctrain.slurm.port import Submission
from hpctrain.submit.plan import Place, make_plan
from hpctrain.testing.fake_slurm import FakeSlurm


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
