"""hpctrain as people use it: a recipe, submitted to a private Slurm cluster (adapter over the command line).

The same program that torchrun starts runs as a ``command``, unchanged; the trainer of hpctrain trains the same model of the
same size, with a copy in memory as often as the recipe's automatic interval says.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.devcluster.cluster import Clusters
from hpctrain.devcluster.state import ClusterInfo
from recovery_systems import timeline
from recovery_systems.launchers import ENV, HERE, Job
from recovery_systems.plain_program import BATCH, MODEL, SEQUENCE

NODES = 4
_MANY = 10**6
_EVENT_S = 10.0
PHASES = {"detect_s": "noticed", "kill_s": "killed", "regroup_s": "regrouped", "init_s": "forked, joined, model",
          "data_s": "data", "state_s": "state", "first_step_s": "first step"}


class SlurmJob(Job):
    """A job of hpctrain on a cluster of its own.

    Args:
        recipe: what to submit.
        name: of the cluster.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any], name: str, what: str) -> None:
        super().__init__(folder, timeline.recovery, what)
        self.name = name
        self._clusters = Clusters(folder / "state" / "clusters", say=lambda _: None)
        path = folder / "recipe.json"
        path.write_text(json.dumps(recipe))
        try:
            self._submit(path)
        except BaseException:
            self.stop()
            raise

    def _submit(self, path: Path) -> None:
        info = self._clusters.up(self.name, NODES, 4)
        self.prepare(info)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SRUN"))}
        own = {"HPCTRAIN_STATE_DIR": str(self.folder / "state"), "HPCTRAIN_RUNS_DIR": str(self.folder / "runs")}
        self.env = {**kept, **info.env, **own}
        answer = json.loads(self.call("submit", str(path), "-o", "json"))["submission"]
        self.run_dir = Path(answer["run_dir"])
        self.id = str(answer["job_id"])

    def prepare(self, info: ClusterInfo) -> None:
        """Change the cluster before anything is submitted."""

    def call(self, *words: str) -> str:
        """What a command of hpctrain prints."""
        result = process.run([sys.executable, "-m", "hpctrain", *words], timeout_s=180, env=self.env, cwd=str(self.folder))
        if not result.ok:
            raise RuntimeError(f"hpctrain {' '.join(words)}: {result.stderr}")
        return result.stdout

    def log(self) -> str:
        """The end of the job's output."""
        path = self.run_dir / "logs" / "job.out"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The run's events of one kind, in order of time."""
        found = []
        for path in self.run_dir.glob("events/*.jsonl"):
            lines = path.read_text().splitlines(keepends=True)
            found += [event for line in lines if line.endswith("\n") and (event := json.loads(line))["kind"] == kind]
        return sorted(found, key=lambda event: float(event["time"]))

    def has_ended(self) -> bool:
        """The job has stopped."""
        return bool(self.events("job.failed") or self.events("job.finished"))

    def pids(self) -> dict[int, int]:
        """The running process of each rank, on whichever node."""
        found: dict[int, int] = {}
        for event in self.events("ranks.started"):
            found |= dict(zip(event["evidence"]["ranks"], event["evidence"]["pids"], strict=True))
        return found

    def stop(self) -> None:
        """Take the cluster down, and with it the job."""
        self._clusters.down(self.name)


class TrainerJob(SlurmJob):
    """hpctrain's own trainer, whose steps are read from its metrics and whose phases from the job's own events."""

    def moments(self) -> list[timeline.Moment]:
        """Starts of ranks, and steps of rank 0."""
        found: list[timeline.Moment] = []
        for event in self.events("ranks.started"):
            evidence = event["evidence"]
            pairs = zip(evidence["ranks"], evidence["pids"], strict=True)
            found += [timeline.Moment(event["time"], rank, pid, "start", 0) for rank, pid in pairs]
        path = self.run_dir / "metrics.jsonl"
        world = len({moment.rank for moment in found})
        for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
            if line.endswith("\n"):
                record = json.loads(line)
                found.append(timeline.Moment(record["time"], 0, 0, "step", record["step"], world))
        return sorted(found, key=lambda moment: moment.time)

    def judged(self, moments: Sequence[timeline.Moment], fault: float, world: int) -> timeline.Recovery | None:
        """Time from the trainer's metrics, phases from the event that the coordinator wrote."""
        result = timeline.recovery(moments, fault, world)
        if result is None:
            return None
        deadline = time.monotonic() + _EVENT_S
        while time.monotonic() < deadline:
            finished = [event for event in self.events("recovery.finished") if event["time"] > fault]
            if finished:
                evidence = finished[0]["evidence"]
                phases = {name: float(evidence[key]) for key, name in PHASES.items() if evidence.get(key) is not None}
                return timeline.Recovery(result.total_s, result.whole_s, phases, result.redone_steps)
            time.sleep(0.05)
        return result


class OrdinaryUsersJob(TrainerJob):
    """A job on a cluster that takes five minutes to give up a node, as Slurm does by default, and its user's watchdog."""

    def __init__(self, folder: Path, recipe: dict[str, Any], name: str, what: str) -> None:
        super().__init__(folder, recipe, name, what)
        command = [sys.executable, "-m", "hpctrain", "watchdog", "run"]
        with (folder / "watchdog.log").open("w") as log:
            self._watchdog = subprocess.Popen(
                command, env=self.env, cwd=folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def prepare(self, info: ClusterInfo) -> None:
        """Slurm's own default for a node that does not answer."""
        file = Path(info.env["SLURM_CONF"])
        file.write_text(re.sub(r"(?m)^SlurmdTimeout=\d+$", "SlurmdTimeout=300", file.read_text()))
        result = process.run(["scontrol", "reconfigure"], timeout_s=60, env={**os.environ, **info.env})
        if not result.ok:
            raise RuntimeError(f"scontrol reconfigure: {result.stderr}")

    def log(self) -> str:
        """The job's output and the watchdog's."""
        return super().log() + (self.folder / "watchdog.log").read_text(errors="replace")[-1000:]

    def stop(self) -> None:
        """The watchdog too."""
        if hasattr(self, "_watchdog"):
            self._watchdog.terminate()
            self._watchdog.wait(30)
        super().stop()


def script_recipe(folder: Path, world: int, every: int, nodes: int = 1) -> dict[str, Any]:
    """The program for torchrun, unchanged."""
    return {**_common("script", world, nodes), "command": [str(HERE / "plain_program.py"), str(folder), str(every)],
            "env": ENV}


def trainer_recipe(world: int, every: int, nodes: int = 1, **more: Any) -> dict[str, Any]:
    """The same model, trained by hpctrain."""
    return {
        **_common("trainer", world, nodes), "method": "pretrain",
        "model": {"config": {"model_type": "llama", **MODEL}},
        "data": {"source": "python-docs", "sequence_length": SEQUENCE},
        "training": {"steps": _MANY, "global_batch_size": BATCH * world, "micro_batch_size": BATCH, "precision": "fp32"},
        "checkpoint": {"every_steps": every}, "env": ENV, **more,
    }


def _common(name: str, world: int, nodes: int) -> dict[str, Any]:
    return {
        "version": 1, "name": name, "resources": {"nodes": nodes, "gpus_per_node": world // nodes, "time_limit": "6h"},
        "resilience": {"max_restarts": _MANY, "restarts_per_window": _MANY, "max_same_failure": _MANY,
                       "max_restarts_without_progress": _MANY},
    }


def script(folder: Path, world: int, every: int, python: str) -> Job:
    """Hpctrain around the same program as torchrun's."""
    del python
    return SlurmJob(folder, script_recipe(folder, world, every), f"rec-{os.getpid()}", "hpctrain, command, DCP load")


def trainer(folder: Path, world: int, every: int, python: str) -> Job:
    """Hpctrain's trainer."""
    del python
    return TrainerJob(folder, trainer_recipe(world, every), f"rec-{os.getpid()}", "hpctrain, its trainer, RAM tier")
