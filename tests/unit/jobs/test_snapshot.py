"""Many runs at once, other clusters, and jobs that have lost their directory."""

from __future__ import annotations

import shutil

import pytest

from hpctrain.errors import NotFoundError
from hpctrain.jobs.find import list_runs
from hpctrain.jobs.snapshot import look, look_at, look_at_list
from hpctrain.jobs.strays import find_or_ask
from hpctrain.slurm.model import Submission
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.jobs.world import World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def stray(world: World, path) -> int:
    """A job of ours whose directory does not exist."""
    script = "#!/bin/bash\n#SBATCH --job-name=lost\n#SBATCH --comment=hpctrain:lost-1\n"
    return world.slurm.submit(Submission(script, str(path)))


def test_one_query_for_many_runs(world, tmp_path):
    """The list of any number of runs asks Slurm for jobs once."""
    for number in range(30):
        RunBuilder(tmp_path, f"old-{number}", job_id=100 + number, submitted=world.now - 1000 - number)
    statuses = look(list_runs(tmp_path), world.slurm, world.clock)
    assert len(statuses) == 31 and world.slurm.calls.count("jobs") == 1


def test_status_puts_everything_together(world):
    """Slurm's view, heartbeat, metrics and plan become one status."""
    world.clock.advance(4)
    world.event("job.started")
    world.builder.steps(1, 40, start=world.now, seconds=2.0)
    world.clock.advance(90)
    world.builder.progress(40, time=world.now - 1, total=100, loss=3.0)
    status = look_at(world.run, world.slurm, world.clock)
    assert (status.state, status.slurm_state, status.id) == ("running", "RUNNING", world.job_id)
    assert (status.step, status.total_steps, status.nodes, status.queued_s) == (40, 100, ("n1", "n2"), 4.0)
    assert status.eta_s == pytest.approx(118, abs=1) and status.tokens_per_s == 2048.0


def test_newest_and_unfinished_runs_are_listed(world, tmp_path):
    """Without --all old runs are left out, unless they still run."""
    for number in range(5):
        RunBuilder(tmp_path, f"new-{number}", job_id=100 + number, submitted=world.now + number)
    shown = [status.name for status in look_at_list(list_runs(tmp_path), world.slurm, world.clock, newest=2)]
    assert shown == ["new-4", "new-3", "tiny-1"]


def test_job_without_its_directory_is_still_listed_and_found(world, tmp_path):
    """A job whose run directory was removed shows in the list and can be named, by id and by name."""
    job_id = stray(world, tmp_path / "gone")
    shutil.rmtree(world.run.dir.path)
    (status,) = look_at_list(list_runs(tmp_path), world.slurm, world.clock, newest=20)
    assert (status.id, status.name, status.run_dir, status.slurm_state) == (job_id, "lost-1", "", "RUNNING")
    assert find_or_ask(str(job_id), tmp_path, world.slurm).name == find_or_ask("lost-1", tmp_path, world.slurm).name


def test_a_run_in_another_runs_directory_is_read_there(world, tmp_path):
    """A job made with another runs directory is shown with its own files."""
    other = RunBuilder(tmp_path / "elsewhere", "lost-1", job_id=world.job_id + 1).progress(7, time=world.now)
    stray(world, other.dir.path)
    status = next(s for s in look_at_list(list_runs(tmp_path), world.slurm, world.clock, newest=20) if s.name == "lost-1")
    assert status.step == 7 and status.run_dir == str(other.dir.path)


def test_nothing_of_that_name_anywhere(world, tmp_path):
    """What neither disk nor Slurm knows is NotFoundError; jobs that are not ours cannot be named."""
    theirs = world.slurm.submit(Submission("#!/bin/bash\n#SBATCH --job-name=other\n", str(tmp_path)))
    for key in ("nothing", str(theirs)):
        with pytest.raises(NotFoundError):
            find_or_ask(key, tmp_path, world.slurm)


def test_reused_job_id_is_not_taken_for_the_run(world, tmp_path):
    """A job of the same number under another name is not the run's job."""
    old = RunBuilder(tmp_path, "older-1", job_id=world.job_id, submitted=world.now - 5000).event(1.0, "x", "job.finished")
    assert look_at(old.run, world.slurm, world.clock).state == "finished"


def test_run_of_another_cluster(world, tmp_path):
    """A run of another cluster is unknown here, and the cluster is named."""
    other = RunBuilder(tmp_path, "far-1", job_id=99, cluster="blue", submitted=world.now - 5000)
    status = look_at(other.run, world.slurm, world.clock)
    assert status.state == "unknown" and "'blue'" in status.explanation and not status.final


def test_controller_down_is_asked_once(world, tmp_path):
    """A list while the controller is down makes one attempt and shows what is recorded."""
    world.slurm.controller_up = False
    world.builder.event(world.now, "coordinator", "job.finished")
    (status,) = look_at_list(list_runs(tmp_path), world.slurm, world.clock, newest=20)
    assert status.state == "finished" and len(world.slurm.calls) == 1


def test_no_slurm_at_all(world):
    """Without any Slurm the files tell what they can."""
    status = look_at(world.run, None, world.clock)
    assert status.state == "unknown" and "no Slurm here" in status.explanation
