"""Faults of ranks, of the processes behind the checkpoint tiers, and of a node, in real jobs that train the quickstart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.jobs.event import Event
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.metrics import read_tail
from hpctrain.jobs.reader import read_events
from tests.train.ranks import WarmRanks, final_weights, logs

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("private_cluster")]

STEPS = 24
IN_MEMORY = {
    "training.steps": STEPS, "checkpoint.every_steps": 1000, "checkpoint.ram.every_steps": 1, "checkpoint.save_final": False,
    "tracking.tensorboard": False,
}
"""Nothing is durable but what is saved when something dies."""


class Drill:
    """A job of the quickstart, or of another recipe, to be broken."""

    def __init__(self, folder: Path, env: dict[str, str], sets: dict[str, object], recipe: str = "quickstart") -> None:
        self.env = {**env, "HPCTRAIN_RUNS_DIR": str(folder / "runs"), "XDG_CONFIG_HOME": "/nonexistent"}
        words = [word for key, value in {**IN_MEMORY, **sets}.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        made = self.command("submit", recipe, "-o", "json", *words)
        assert made.returncode == 0, made.stderr
        submission = json.loads(made.stdout)["submission"]
        self.job_id, self.run_dir = int(submission["job_id"]), RunDir(Path(submission["run_dir"]))

    def command(self, *words: str) -> process.Result:
        return process.run([sys.executable, "-m", "hpctrain", *words], timeout_s=60, env=self.env)

    @property
    def step(self) -> int:
        """Completed steps of the newest start."""
        return max((point.step for point in read_tail(self.run_dir.metrics)), default=0)

    def until(self, condition: Callable[[], object], timeout_s: float = 120) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, "\n".join([*self.told(), self.run_dir.job_log.read_text()[-3000:]])
            time.sleep(0.05)

    def events(self, *kinds: str) -> list[Event]:
        return [event for event in read_events(self.run_dir) if not kinds or event.kind in kinds]

    def told(self) -> list[str]:
        return [f"{event.time:.2f} {event.source} {event.node} {event.kind} {event.step} {event.reason}"
                for event in self.events()]

    def pids(self, node: str) -> list[int]:
        """Ranks of a node in the newest start."""
        started = [event for event in self.events("ranks.started") if event.node == node]
        return [int(pid) for pid in started[-1].evidence["pids"]]

    def helpers(self, what: str) -> list[int]:
        """Keepers or writers of this job, of all nodes."""
        module = {"keeper": b"hpctrain.checkpoint.keeper_main", "writer": b"hpctrain.agent"}[what]
        ours = f"HPCTRAIN_RUNS_DIR={self.env['HPCTRAIN_RUNS_DIR']}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words, env = ((path / file).read_bytes().split(b"\0") for file in ("cmdline", "environ"))
                if module in words and (what == "keeper" or b"writer" in words) and ours in env:
                    found.append(int(path.name))
        return found

    def kill(self, *pids: int) -> None:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def without(self, node: str, cluster: ClusterInfo) -> Iterator[None]:
        """Power off a node: its daemon, its step and its ranks are gone; and switch it on again afterwards."""
        where = ("--name", cluster.state_dir.name, node)
        try:
            assert 0 == self.command("cluster", "kill-node", *where).returncode
            yield
        finally:
            assert 0 == self.command("cluster", "start-node", *where).returncode

    def finish(self) -> None:
        """Wait until the work is complete, and nothing of it is left."""
        self.until(lambda: self.events("job.finished", "job.failed"), 180)
        assert [] == self.events("job.failed"), self.told()
        self.until(lambda: not self.helpers("keeper") and not self.helpers("writer"), 20)

    def lost(self) -> list[int]:
        """Steps that each restore had to do again."""
        return [int(event.evidence["steps_lost"]) for event in self.events("checkpoint.restored")]


@pytest.fixture
def begin(tmp_path: Path, cluster_env: dict[str, str]) -> Iterator[Callable[..., Drill]]:
    """Submit a recipe with some values replaced; its job is ended with the test."""
    made: list[Drill] = []

    def build(recipe: str = "quickstart", **sets: object) -> Drill:
        made.append(Drill(tmp_path, cluster_env, {key.replace("__", "."): value for key, value in sets.items()}, recipe))
        return made[-1]

    yield build
    for drill in made:
        process.run(["scancel", str(drill.job_id)], timeout_s=30, env=drill.env)


@pytest.fixture(scope="module")
def trainers() -> Iterator[WarmRanks]:
    """Starts the uninterrupted runs quickly, without Slurm."""
    server = WarmRanks()
    yield server
    server.close()


def uninterrupted(trainers: WarmRanks, drill: Drill, folder: Path, modules: tuple[str, ...] = ()) -> bytes:
    """Final weights of the same recipe, trained by ranks that nobody kills."""
    recipe: dict[str, Any] = json.loads(drill.run_dir.resolved_json.read_text())
    recipe["checkpoint"]["ram"]["enabled"] = False
    recipe["checkpoint"]["peer"] = False
    assert [0] * 4 == trainers.finish(folder / "calm", recipe, modules=modules), logs(folder / "calm")
    return final_weights(folder / "calm")


def test_a_killed_rank_costs_no_more_than_a_step(begin: Callable[..., Drill], trainers: WarmRanks, tmp_path: Path) -> None:
    """DDP: SIGKILL of one rank; all ranks are started again on the same nodes, and training goes on from memory."""
    drill = begin()
    drill.until(lambda: drill.step >= 5)
    drill.kill(drill.pids("n1")[1])
    drill.finish()

    (recovery,), (lost,) = drill.events("recovery.finished"), drill.lost()
    assert ("R1", "rank", "ram") == tuple(recovery.evidence[key] for key in ("rung", "cause", "tier"))
    assert [] == drill.events("checkpoint.flushed", "job.requeued")
    assert lost <= 1, drill.told()
    assert uninterrupted(trainers, drill, tmp_path) == final_weights(drill.run_dir.path)


def test_keeper_writer_and_a_nodes_ranks_are_killed(
    begin: Callable[..., Drill], trainers: WarmRanks, tmp_path: Path,
) -> None:
    """FSDP2: training outlives keeper and writer, which are started again; then all ranks of a node are killed."""
    drill = begin(training__parallelism={"kind": "fsdp2"}, training__steps=40)
    drill.until(lambda: drill.step >= 3)
    (first, *_), writers = drill.helpers("keeper"), drill.helpers("writer")
    drill.kill(first, *writers)
    drill.until(lambda: len([event for event in drill.events("checkpoint.recovered") if event.source == "trainer"]) >= 1)
    drill.until(lambda: len(drill.helpers("writer")) == 2)
    drill.kill(*drill.pids("n2"))
    drill.finish()

    assert ["checkpoint.degraded", "checkpoint.recovered"] == sorted({
        event.kind for event in drill.events() if event.source == "agent" and event.evidence.get("process") == "keeper"})
    assert ["R1"] == [event.evidence["rung"] for event in drill.events("recovery.finished")]
    assert max(drill.lost()) <= 2, drill.told()
    assert uninterrupted(trainers, drill, tmp_path) == final_weights(drill.run_dir.path)


def test_a_lost_node_costs_what_its_peer_had_not_got_yet(
    begin: Callable[..., Drill], trainers: WarmRanks, tmp_path: Path, private_cluster: ClusterInfo,
) -> None:
    """A node dies with its ranks and its memory: the other one has copies of its parts, and saves those with its own."""
    drill = begin()
    drill.until(lambda: drill.step >= 8)
    with drill.without("n2", private_cluster):
        drill.finish()

    (flushed,), (lost,) = drill.events("checkpoint.flushed"), drill.lost()
    assert ["n1"] == flushed.evidence["nodes"]
    assert lost <= 3, drill.told()
    assert uninterrupted(trainers, drill, tmp_path) == final_weights(drill.run_dir.path)
