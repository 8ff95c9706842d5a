"""Every cause of death that a private cluster allows, really caused, held to the table in docs/recovery.md.

One job survives one cause after the other; afterwards its state is that of a run that nobody disturbed, byte for byte.
Causes that take a minute by design are marked ``long``; so is the one that needs a cluster with health checks. Times are not
judged here: machines that run tests are busy, and benchmarks/recovery.py measures them.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.checkpoint.names import COMMIT, parse_name
from hpctrain.devcluster.cluster import Clusters
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.drill.catalogue import KINDS
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.metrics import read_tail
from hpctrain.jobs.reader import read_events
from tests.train.ranks import WarmRanks, logs
from tests.unit.drill import guide

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("private_cluster")]

EVERY = 20
WRITES_GUIDE = "TEST_WRITES_GUIDE"
"""Set, it lets these tests put what they saw into docs/recovery.md."""
SMALL: dict[str, object] = {
    "model.config.hidden_size": 64, "model.config.intermediate_size": 128, "model.config.num_hidden_layers": 2,
    "data.sequence_length": 64, "training.global_batch_size": 16, "training.micro_batch_size": 4, "training.steps": 50_000,
    "training.log_every_steps": 100, "tracking.tensorboard": False, "checkpoint.every_steps": EVERY,
    "checkpoint.keep_last": 100_000, "checkpoint.ram.every_steps": 1, "resources.time_limit": "30m",
    "resilience.max_restarts": 1000, "resilience.restarts_per_window": 1000,
    "resilience.exclude_after": 1000,
}
"""Steps of some ten milliseconds, every step in memory, and checkpoints on disk to compare with."""
IN_PLACE = ("kill-rank", "kill-keeper", "kill-writer", "kill-coordinator", "kill-ranks", "corrupt-checkpoint", "kill-agent",
            "slurmctld-restart", "drain-node", "stop-rank", "kill-node", "time-limit")
SILENCE = "20s"
"""A rank that is silent for so long hangs: the recipe's default is a minute, and a step takes some ten milliseconds."""
SLOW = ("stop-agent", "stop-coordinator", "kill-batch-host", "preemption", "kill-node", "fill-ram-tier")
"""In a job without a spare."""
SOAK = ("kill-rank", "kill-ranks", "kill-agent", "kill-keeper", "kill-writer", "kill-coordinator", "kill-node",
        "slurmctld-restart", "time-limit")
"""Not what waits by design: a stopped process is given its time, and a job that others queue again is Slurm's to start."""
SOAK_SEED = 21
"""Each of these kinds at least once."""


class Job:
    """A running job, to be broken."""

    def __init__(self, folder: Path, env: dict[str, str], sets: dict[str, object]) -> None:
        self.env = {**env, "HPCTRAIN_RUNS_DIR": str(folder / "runs"), "XDG_CONFIG_HOME": "/nonexistent"}
        words = [word for key, value in {**SMALL, **sets}.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        made = self.command("submit", "quickstart", "-o", "json", *words)
        assert made.returncode == 0, made.stderr
        submission = json.loads(made.stdout)["submission"]
        self.name, self.id = str(submission["run_name"]), int(submission["job_id"])
        self.dir = RunDir(Path(submission["run_dir"]))

    def command(self, *words: str, timeout_s: float = 90) -> process.Result:
        return process.run([sys.executable, "-m", "hpctrain", *words], timeout_s=timeout_s, env=self.env)

    def drill(self, kind: str, *words: str) -> dict[str, Any]:
        """Break it, and hold what happens to the catalogue's promise."""
        found = self.command("drill", kind, self.name, "--yes", "--any-time", "-o", "json", "--patience", "200", *words,
                             timeout_s=560)
        assert found.stdout, f"{kind}: {found.stderr}\n{self.told()}"
        (drill,) = json.loads(found.stdout)["drills"]
        assert drill["kept"], f"{kind}: {drill['happened']}: {drill['problems']}\n{self.told()}"
        assert found.returncode == 0
        return dict(drill)

    def told(self) -> str:
        """The end of its history, for a failed assertion."""
        events = [f"{event.time:.2f} {event.source} {event.node} {event.kind} {event.step} {event.reason[:200]}"
                  for event in read_events(self.dir)][-60:]
        output = self.dir.job_log.read_text(errors="replace")[-3000:] if self.dir.job_log.exists() else ""
        return "\n".join([*events, output])

    def checkpoints(self) -> list[int]:
        """Steps that are complete on disk and whole multiples of the interval."""
        names = [name for path in self.dir.checkpoints.glob("step-*") if (name := parse_name(path.name))
                 and (path / COMMIT).exists()]
        return sorted({name.step for name in names if name.step % EVERY == 0})

    def until(self, condition: Callable[[], object], timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.1)


@pytest.fixture
def begin(tmp_path: Path, cluster_env: dict[str, str]) -> Iterator[Callable[..., Job]]:
    """Submit a job; it is ended with the test."""
    made: list[Job] = []

    def build(**sets: object) -> Job:
        made.append(Job(tmp_path, cluster_env, {key.replace("__", "."): value for key, value in sets.items()}))
        return made[-1]

    yield build
    for job in made:
        process.run(["scancel", str(job.id)], timeout_s=30, env=job.env)


class Calm:
    """Runs that nobody breaks, without Slurm: what was computed for one test serves the next one with the same recipe."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._ranks = folder, WarmRanks()
        self._runs: list[tuple[dict[str, Any], Path]] = []

    def state(self, job: Job, step: int) -> dict[str, str]:
        """Hashes of the state at a step that is a multiple of the interval."""
        recipe: dict[str, Any] = json.loads(job.dir.resolved_json.read_text())
        recipe["checkpoint"]["ram"]["enabled"] = False
        recipe["checkpoint"]["peer"] = False
        # These say what becomes of a job, and nothing of what it computes.
        computed = {key: value for key, value in recipe.items() if key not in ("resources", "resilience", "detection")}
        for known, folder in self._runs:
            if known == computed and list((folder / "checkpoints").glob(f"step-{step:08d}.i*/{COMMIT}")):
                return state(folder, step)
        folder = self._folder / f"calm-{len(self._runs)}"
        self._runs.append((computed, folder))
        start = self._ranks.start(folder, recipe)
        start.wait_until(lambda beat: int(beat.get("step") or 0) > step, timeout_s=600)
        start.kill()
        start.wait()
        assert (folder / "checkpoints").exists(), logs(folder)
        return state(folder, step)

    def close(self) -> None:
        """End the process that starts them."""
        self._ranks.close()


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    """Undisturbed runs to compare with."""
    made = Calm(tmp_path_factory.mktemp("calm"))
    yield made
    made.close()



def state(run_dir: Path, step: int) -> dict[str, str]:
    """Hashes of all tensors' files of a checkpoint, as its manifest has them."""
    folders = [path for path in (run_dir / "checkpoints").glob(f"step-{step:08d}.i*") if (path / COMMIT).exists()]
    newest = max(folders, key=lambda path: path.name)
    files = json.loads((newest / "manifest.json").read_text())["files"]
    return {name: entry["xxh3_128"] for name, entry in files.items() if name.endswith(".distcp")}


@pytest.mark.timeout(1200)
def test_one_job_survives_cause_after_cause(
    begin: Callable[..., Job], calm: Calm, private_cluster: ClusterInfo,
) -> None:
    """Each cause is held by the promised rung; then the state is byte for byte that of a run that nobody disturbed."""
    assert len(private_cluster.nodes) >= 4
    job = begin(resources__spares=1, detection__hang__at_least=SILENCE)
    job.until(lambda: len(job.checkpoints()) >= 2)

    found = {kind: job.drill(kind) for kind in IN_PLACE}
    if os.environ.get(WRITES_GUIDE):
        guide.write_measured(found.values())

    steps = max(point.step for point in read_tail(job.dir.metrics))
    job.until(lambda: [step for step in job.checkpoints() if step > steps])
    process.run(["scancel", str(job.id)], timeout_s=30, env=job.env)
    last = job.checkpoints()[-1]
    assert state(job.dir.path, last) == calm.state(job, last)
    assert {"R1", "R2", "R3"} <= {drill["rung"] for drill in found.values()}
    document = json.loads(job.command("report", job.name, "-o", "json").stdout)["report"]
    caused = [drill for drill in found.values() if drill["rung"]]
    assert len(document["incidents"]) >= len(caused)
    assert 0 < document["goodput"]["ettr"] < 1


def test_a_cancelled_job_stays_cancelled(begin: Callable[..., Job]) -> None:
    """A person's scancel is the last word: half a minute later nobody has started the job again."""
    job = begin()
    job.until(job.checkpoints)
    job.drill("cancel")
    job.until(lambda: "CANCELLED" in process.run(["squeue", "-h", "-t", "all", "-j", str(job.id), "-o", "%T"], timeout_s=30,
                                                 env=job.env).stdout)
    assert not [event for event in read_events(job.dir) if event.kind == "job.requeued"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", SLOW)
def test_slow_causes(begin: Callable[..., Job], calm: Calm, kind: str) -> None:
    """Causes that take long by design: a silent process is waited for, a requeue by others is delayed by Slurm."""
    job = begin()
    job.until(lambda: len(job.checkpoints()) >= 2)
    drill = job.drill(kind)
    if os.environ.get(WRITES_GUIDE):
        guide.write_measured([drill])

    steps = max(point.step for point in read_tail(job.dir.metrics))
    job.until(lambda: [step for step in job.checkpoints() if step > steps])
    process.run(["scancel", str(job.id)], timeout_s=30, env=job.env)
    last = job.checkpoints()[-1]
    assert state(job.dir.path, last) == calm.state(job, last)


@pytest.mark.timeout(1200)
def test_ten_random_faults(begin: Callable[..., Job], calm: Calm) -> None:
    """A seeded series on one job: every promise is kept, the state is that of an undisturbed run, its goodput is told."""
    job = begin(resources__spares=1)
    job.until(job.checkpoints)
    only = [word for kind in SOAK for word in ("--only", kind)]
    result = job.command("drill", "--random", "--seed", str(SOAK_SEED), "--count", "10", *only, job.name, "--yes",
                         "--any-time", "--patience", "200", "-o", "json", timeout_s=1000)
    assert result.returncode == 0, f"{result.stderr}\n{result.stdout}\n{job.told()}"
    drills = json.loads(result.stdout)["drills"]
    assert len(drills) == 10
    assert {drill["kind"] for drill in drills} == set(SOAK)
    assert {"R1", "R2", "R3"} <= {drill["rung"] for drill in drills}
    steps = max(point.step for point in read_tail(job.dir.metrics))
    job.until(lambda: [step for step in job.checkpoints() if step > steps])
    process.run(["scancel", str(job.id)], timeout_s=30, env=job.env)
    goodput = json.loads(job.command("report", job.name, "-o", "json").stdout)["report"]["goodput"]
    print(f"goodput with ten faults: {goodput}")
    assert 0 < goodput["ettr"] < 1
    last = job.checkpoints()[-1]
    assert state(job.dir.path, last) == calm.state(job, last)



@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_gpu_falls_off_its_bus(calm: Calm, tmp_path: Path, cluster_state_dir: Path) -> None:
    """The node's health check finds it under the running job, the node is drained, and a spare takes its place."""
    name = f"gpus-{os.getpid()}"
    clusters = Clusters(cluster_state_dir / "clusters", say=print)
    try:
        env = {**os.environ, **clusters.up(name).env}
        healthy = process.run([sys.executable, "-m", "hpctrain", "cluster", "up", "--health", "--name", name], timeout_s=120,
                              env=env)
        assert healthy.ok, healthy.stderr
        job = Job(tmp_path, env, {"resources.spares": 1})
        job.until(lambda: len(job.checkpoints()) >= 2)
        drill = job.drill("xid79")
        if os.environ.get(WRITES_GUIDE):
            guide.write_measured([drill])
        assert "R2" == drill["rung"]
        steps = max(point.step for point in read_tail(job.dir.metrics))
        job.until(lambda: [step for step in job.checkpoints() if step > steps])
        last = job.checkpoints()[-1]
    finally:
        clusters.down(name)
    assert state(job.dir.path, last) == calm.state(job, last)


def test_the_guide_lists_what_is_caused_here() -> None:
    """Each cause of this file stands in the table of docs/recovery.md."""
    table = guide.table()

    assert [kind for kind in (*IN_PLACE, *SLOW, *SOAK) if f"`{kind}`" not in table] == []
    assert set(IN_PLACE) | set(SLOW) | set(SOAK) <= set(KINDS)
