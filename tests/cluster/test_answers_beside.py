"""A server of answers beside a run: submitted with it, started again when it dies, ended with it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.jobs.layout import RunDir
from hpctrain.process import Result
from tests.train.tuning import make_model

pytestmark = [
    pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("private_cluster"), pytest.mark.timeout(240),
]
SERVER = Path(__file__).with_name("answers_server.py")


class Beside:
    """Recipes whose answers are written apart, their runs, and the servers' runs."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.runs, self._folder = folder / "runs", folder
        self._env = {**env, "HPCTRAIN_RUNS_DIR": str(self.runs), "XDG_CONFIG_HOME": "/nonexistent"}
        make_model(folder / "base")

    def hpctrain(self, *arguments: str) -> Result:
        return process.run([sys.executable, "-m", "hpctrain", *arguments], timeout_s=120, env=self._env)

    def submit(self, **resources: Any) -> Result:
        """Submit a recipe with a server on two GPUs."""
        values = {
            "version": 1, "name": "apart", "method": "rlvr", "model": {"path": "base"},
            "data": {"source": "arithmetic", "sequence_length": 64}, "rewards": [{"kind": "math"}],
            "training": {"steps": 2, "global_batch_size": 16, "micro_batch_size": 4, "precision": "fp32"},
            "generation": {"placement": "separate", "server_gpus": 2, "max_new_tokens": 8,
                           "server_command": [sys.executable, str(SERVER)]},
            "resources": {"nodes": 1, "gpus_per_node": 1, "time_limit": "10m", **resources},
        }
        (self._folder / "recipe.yaml").write_text(json.dumps(values))
        return self.hpctrain("submit", str(self._folder / "recipe.yaml"))

    def states(self) -> dict[str, str]:
        """State of each run by what it is."""
        found = json.loads(self.hpctrain("list", "-o", "json").stdout)["runs"]
        return {"server" if "-answers-" in one["name"] else "run": one["state"] for one in found}

    def dir_of(self, server: bool) -> RunDir:
        (found,) = (path for path in self.runs.iterdir() if ("-answers-" in path.name) == server)
        return RunDir(found)


@pytest.fixture
def beside(tmp_path: Path, cluster_env: dict[str, str]) -> Beside:
    """The above."""
    return Beside(tmp_path, cluster_env)


def until(condition: Callable[[], object], told: Callable[[], object]) -> None:
    """Wait for something."""
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)


def test_the_server_begins_first_and_ends_with_the_run(beside: Beside) -> None:
    """Its address is told to the run, which here finds no GPU and fails for good; the server's run is then complete."""
    submitted = beside.submit()
    assert submitted.ok, submitted.stderr
    assert "answers are written by run apart-answers-" in submitted.stderr
    until(lambda: beside.states() == {"run": "failed", "server": "finished"}, beside.states)

    run, server = beside.dir_of(server=False), beside.dir_of(server=True)
    told = " ".join(path.read_text() for path in run.logs.rglob("rank-*.log"))
    assert "needs GPUs, and this rank computes on the CPU" in told
    (arguments,) = (path.read_text() for path in server.path.glob("server-*"))
    assert f"--tensor-parallel-size 2 --max-model-len 64 --host 127.0.0.1 --port {_port(run)}" in arguments
    job = json.loads(server.record.read_text())["job_id"]
    assert f"#SBATCH --dependency=after:{job}\n" in run.script.read_text()


def test_a_server_that_dies_is_started_again(beside: Beside) -> None:
    """It says anew where it is; a run that is cancelled while it waits for nodes takes the server along."""
    submitted = beside.submit(nodes=4, gpus_per_node=8, ranks_per_node=1)  # all that there are: it waits in the queue
    assert submitted.ok, submitted.stderr
    run, server = beside.dir_of(server=False), beside.dir_of(server=True)
    until(lambda: run.answers.is_file() and list(server.path.glob("server-*")), beside.states)
    first = _port(run)
    (mark,) = server.path.glob("server-*")
    os.kill(int(mark.name.removeprefix("server-")), signal.SIGKILL)
    until(lambda: _port(run) != first, beside.states)
    assert {"run": "queued", "server": "running"} == beside.states()

    # The ranks that it answers are started again: it begins anew, and says for which start it is there.
    second = _port(run)
    (run.control / "incarnation.json").write_text('{"incarnation": 3}')
    until(lambda: _told(run)["incarnation"] == 3, beside.states)
    assert _port(run) != second
    until(lambda: len([mark for mark in server.path.glob("server-*") if _lives(mark)]) == 1, beside.states)

    assert beside.hpctrain("cancel", run.name).ok
    until(lambda: beside.states() == {"run": "cancelled", "server": "finished"}, beside.states)


def _lives(mark: Path) -> bool:
    return Path(f"/proc/{mark.name.removeprefix('server-')}").exists()


def _told(run: RunDir) -> dict[str, Any]:
    return dict(json.loads(run.answers.read_text()))


def _port(run: RunDir) -> str:
    return str(_told(run)["url"]).rpartition(":")[2]
