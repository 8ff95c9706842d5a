"""A run and the server of answers beside it are submitted both, or neither."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import RecipeError, SlurmError, StorageError
from hpctrain.ids import JobId
from hpctrain.settings import Settings
from hpctrain.slurm.model import JobState, Submission
from hpctrain.submit import beside
from hpctrain.submit import run as service
from hpctrain.submit.run import Site
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.fake_slurm import FakeSlurm
from tests.train.tuning import make_model


class OneOnly(FakeSlurm):
    """A Slurm that takes one job."""

    def submit(self, submission: Submission) -> JobId:
        if self.jobs():
            raise SlurmError("sbatch: error: that is enough")
        return super().submit(submission)


def recipe(folder: Path, **sections: Any) -> str:
    """A recipe with a server on four GPUs."""
    make_model(folder / "base")
    values = {
        "version": 1, "name": "apart", "method": "rlvr", "model": {"path": "base", "trust_remote_code": True},
        "data": {"source": "arithmetic", "sequence_length": 64}, "rewards": [{"kind": "math"}],
        "training": {"steps": 2, "global_batch_size": 16, "micro_batch_size": 2, "precision": "fp32"},
        "generation": {"placement": "separate", "server_gpus": 4, "max_new_tokens": 8},
        "resources": {"nodes": 2, "gpus_per_node": 8, "partition": "main", "interface": "ib0", "ranks_per_node": 4,
                      "cpus_per_node": 16, "memory_per_node": "64 GiB"},
        "env": {"NCCL_DEBUG": "WARN"}, **sections,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values))
    return str(path)


def surroundings(folder: Path, slurm: FakeSlurm, clock: FakeClock) -> tuple[Settings, Site]:
    """Where runs go, and who submits."""
    return Settings(runs_dir=str(folder / "runs")), Site(slurm, clock, "/venv/bin/python", "alice", "login1")


def test_the_server_is_a_run_before_the_run(tmp_path: Path) -> None:
    """One node with the GPUs that were asked for, trl's server with the model and the longest text, then the run."""
    clock = FakeClock()
    settings, site = surroundings(tmp_path, slurm := FakeSlurm(clock=clock), clock)
    path = recipe(tmp_path)
    made = beside.submit(service.prepare(path, [], settings, site), settings, site, argument=path)

    first, second = slurm.jobs()
    assert ["apart-answers-20270115-080000", "apart-20270115-080000"] == [first.name, second.name]
    assert f"#SBATCH --dependency=after:{first.job_id}\n" in made.run_dir.script.read_text()
    server = made.run_dir.path.parent / first.name
    assert {"run_dir": str(made.run_dir.path)} == json.loads((server / "control/serves.json").read_text())
    plan = json.loads((server / "plan.json").read_text())
    assert ["/venv/bin/python", "-m", "hpctrain.jobs.serve_beside", "/venv/bin/python", "-m", "trl.scripts.vllm_serve",
            "--model", str(tmp_path / "base"), "--tensor-parallel-size", "4", "--max-model-len", "64",
            "--trust-remote-code", "true"] == plan["command"]["argv"]
    assert ("WARN", "1") == tuple(plan["command"]["env"][name] for name in ("NCCL_DEBUG", "PYTHONSAFEPATH"))
    assert "off" == plan["detection"]["hang"]["action"]  # it waits to be asked, which is no hang
    assert (8, 32 * 1024) == (plan["slurm"]["cpus_per_node"], plan["slurm"]["memory_per_node_mib"])
    assert {"run_dir": str(server)} == json.loads(made.run_dir.server.read_text())
    assert (1, 1, 4, "main", "ib0") == (
        plan["nodes"], plan["ranks_per_node"], plan["slurm"]["gpus_per_node"], plan["slurm"]["partition"], plan["interface"])
    assert any("run apart-answers-20270115-080000 (job" in note for note in made.prepared.notes)


def test_a_full_disk_leaves_neither(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both jobs are queued and their link cannot be written: both are cancelled, and what could not be is told."""
    clock = FakeClock()
    settings, site = surroundings(tmp_path, slurm := FakeSlurm(clock=clock), clock)
    path = recipe(tmp_path)
    prepared = service.prepare(path, [], settings, site)

    def full(*_: Any, **__: Any) -> None:
        raise StorageError("no space left on device")

    monkeypatch.setattr(beside, "write_json_atomic", full)
    with pytest.raises(StorageError, match="no space left"):
        beside.submit(prepared, settings, site, argument=path)
    assert [JobState.CANCELLED, JobState.CANCELLED] == [job.state for job in slurm.jobs()]
    assert [] == list((tmp_path / "runs").iterdir())

    def dead(*_: Any, **__: Any) -> None:
        slurm.controller_up = False
        full()

    monkeypatch.setattr(beside, "write_json_atomic", dead)
    with pytest.raises(StorageError) as caught:
        beside.submit(prepared, settings, site, argument=path)
    assert 2 == caught.value.advice.count("cancel it with scancel")


def test_a_dry_run_tells_of_the_server(tmp_path: Path) -> None:
    """What would be submitted first is a sentence, and nothing is."""
    clock = FakeClock()
    settings, site = surroundings(tmp_path, slurm := FakeSlurm(clock=clock), clock)
    told = beside.would_submit(service.prepare(recipe(tmp_path), [], settings, site), settings, site)

    assert told.resolved.notes[-1].startswith(
        "answers would be written by run apart-answers-20270115-080000, on 4 GPUs of a node of its own")
    assert [] == slurm.jobs()


def test_a_run_that_is_refused_leaves_no_server(tmp_path: Path) -> None:
    """Slurm takes the server's job and refuses the run's: the job is cancelled, and no directory is left."""
    clock = FakeClock()
    settings, site = surroundings(tmp_path, slurm := OneOnly(clock=clock), clock)
    path = recipe(tmp_path)
    with pytest.raises(SlurmError, match="that is enough"):
        beside.submit(service.prepare(path, [], settings, site), settings, site, argument=path)

    assert [JobState.CANCELLED] == [job.state for job in slurm.jobs()]
    assert [] == list((tmp_path / "runs").iterdir())


def test_a_server_that_no_node_holds(tmp_path: Path) -> None:
    """More GPUs than a node has are told at the line of the recipe that asks for them, and nothing is submitted."""
    clock = FakeClock()
    settings, site = surroundings(tmp_path, slurm := FakeSlurm(clock=clock), clock)
    path = recipe(tmp_path, generation={"placement": "separate", "server_gpus": 16, "max_new_tokens": 8})
    with pytest.raises(RecipeError, match="'server_gpus' starts cannot run here") as caught:
        beside.submit(service.prepare(path, [], settings, site), settings, site, argument=path)

    assert caught.value.where.startswith(f"{path}:")
    assert [] == slurm.jobs()


def test_a_run_without_a_server_is_one_job(tmp_path: Path) -> None:
    """Nothing is added where the ranks write the answers themselves."""
    clock = FakeClock()
    settings, site = surroundings(tmp_path, slurm := FakeSlurm(clock=clock), clock)
    path = recipe(tmp_path, generation={"max_new_tokens": 8})
    made = beside.submit(service.prepare(path, [], settings, site), settings, site, argument=path)

    assert [made.job_id] == [job.job_id for job in slurm.jobs()]
    assert "--dependency" not in made.run_dir.script.read_text()
