"""hpctrain from Python."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hpctrain import api
from hpctrain.cli.main import invoke
from hpctrain.devcluster.layout import Spec
from hpctrain.devcluster.state import save_spec
from hpctrain.errors import ClusterError, NotFoundError, SlurmMissingError
from hpctrain.jobs.status import State
from hpctrain.settings import Settings
from hpctrain.slurm.connect import COMMANDS
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.jobs.world import World

HEAVY = ("pydantic", "jinja2", "rich", "yaml", "torch", "click", "plotext", "ClusterShell", "subprocess")


@pytest.mark.parametrize("module", ["hpctrain", "hpctrain.api", "hpctrain.jobs.writer"])
def test_imports_are_light(module):
    """Importing the package, its Python interface or the event writer brings in nothing heavy."""
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "[]"


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def job(world, tmp_path):
    return api.Job(world.run, api.Context(Settings(str(tmp_path)), world.slurm, world.clock))


def test_job_tells_its_status_events_metrics_and_logs(job, world):
    """One Job gives everything that the commands show."""
    world.event("job.started")
    world.builder.steps(1, 5, start=world.now)
    world.say("hello")
    world.say("from rank 1", rank=1, node="n2")
    assert (job.id, job.name, job.run_dir) == (world.job_id, "tiny-1", world.run.dir.path)
    assert job.status().step == 5 and job.status().nodes == ("n1", "n2")
    assert [event.kind for event in job.events()] == ["job.started"]
    assert [point.step for point in job.metrics()] == [1, 2, 3, 4, 5]
    assert [line.text for line in job.logs()] == ["hello"]
    assert [(line.rank, line.text) for line in job.logs(all_ranks=True, tail=1)] == [(1, "from rank 1")]


def test_wait_returns_the_final_status(job, world):
    """wait() returns when the job has ended, however it ended."""
    world.clock.after(30, lambda: world.slurm.finish(world.job_id, 3))
    status = job.wait()
    assert status.final and status.succeeded is False and status.state is State.FAILED


def test_wait_with_a_timeout_returns_early(job):
    """wait(timeout_s=...) returns the newest status when the time is over."""
    assert not job.wait(timeout_s=5).final


def test_cancel_says_whether_it_did_anything(job):
    """cancel() is True once and False for a job that has ended."""
    assert job.cancel() is True and job.cancel() is False


def test_cancel_without_slurm_is_an_error(world, tmp_path):
    """Where there is no Slurm nothing can be cancelled, and the reason is told."""
    lonely = api.Job(world.run, api.Context(Settings(str(tmp_path)), None, world.clock, "no Slurm on this machine"))
    with pytest.raises(SlurmMissingError, match="no Slurm on this machine"):
        lonely.cancel()


@pytest.fixture
def no_slurm(tmp_path, monkeypatch):
    """Runs in tmp_path, and a machine where no Slurm is found."""
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", "/nonexistent/slurm.conf")


def test_jobs_and_submit_stay_callable_beside_the_packages(no_slurm, tmp_path):
    """hpctrain.jobs() and hpctrain.submit() work although packages of these names are imported."""
    import hpctrain.jobs.find
    import hpctrain.submit.plan_model

    RunBuilder(tmp_path, "one", job_id=1, submitted=1.0)
    RunBuilder(tmp_path, "two", job_id=2, submitted=2.0)
    assert [job.name for job in hpctrain.jobs()] == ["two", "one"]
    with pytest.raises(SlurmMissingError):
        hpctrain.submit("quickstart")
    assert hpctrain.jobs.find.list_runs(tmp_path)


def test_job_by_key(no_slurm, tmp_path):
    """job() takes an id, a name or 'latest'; status works without Slurm."""
    RunBuilder(tmp_path, "one", job_id=7, submitted=1.0).event(2.0, "coordinator", "job.finished")
    assert api.job(7).name == api.job("latest").name == "one"
    assert api.job("one").status().state == "finished"
    with pytest.raises(NotFoundError):
        api.job("two")


@pytest.fixture(params=["stopped", "gone"])
def named_cluster(request, tmp_path, monkeypatch):
    """A run in tmp_path/runs, Slurm's commands, and a private cluster that was named and is stopped or was taken down."""
    for name in COMMANDS:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\nexit 1\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HPCTRAIN_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("HPCTRAIN_CLUSTER", "mine")
    for variable in ("SLURM_CONF", "SLURM_JOB_ID"):
        monkeypatch.delenv(variable, raising=False)
    if request.param == "stopped":
        (tmp_path / "clusters" / "mine").mkdir(parents=True)
        save_spec(tmp_path / "clusters" / "mine", Spec("mine", 1, 0, 1, str(tmp_path)))
    (tmp_path / "runs").mkdir()
    RunBuilder(tmp_path / "runs", "one", job_id=7, submitted=1.0).event(2.0, "coordinator", "job.finished")
    return ClusterError if request.param == "stopped" else NotFoundError


@pytest.mark.parametrize("argv", [["list"], ["describe", "one"], ["events", "one"], ["report", "one"], ["logs", "one"]])
def test_runs_of_a_cluster_that_is_down_can_be_read(named_cluster, argv):
    """Commands that read go by the files when the private cluster that was named is stopped or gone."""
    assert invoke(argv) == 0
    assert api.job("one").status().state == "finished"


def test_describe_says_that_the_cluster_is_down(named_cluster, capsys):
    """The description tells which private cluster could not be asked."""
    assert invoke(["describe", "one"]) == 0
    assert "private cluster 'mine'" in capsys.readouterr().err


def test_what_needs_a_cluster_that_is_down_says_so(named_cluster):
    """Cancelling and submitting name the private cluster that is not there."""
    with pytest.raises(named_cluster, match="mine"):
        api.job("one").cancel()
    with pytest.raises(named_cluster, match="mine"):
        api.submit("quickstart")
    assert invoke(["cancel", "one"]) == named_cluster.exit_code
    assert invoke(["submit", "quickstart"]) == named_cluster.exit_code
