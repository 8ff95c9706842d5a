"""Alice, Bob and the operator at the dockerised cluster: what they type, and what becomes of their runs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.devcluster.docker_cluster import DockerCluster
from hpctrain.process import Result

PATIENCE_S = 420.0
"""Longest wait for anything: a busy machine has time, and Slurm takes a minute over some things."""
PYTHON = "/opt/hpctrain/bin/python"
SMALL: Mapping[str, object] = {
    "model.config.hidden_size": 64, "model.config.intermediate_size": 128, "model.config.num_hidden_layers": 2,
    "data.sequence_length": 64, "training.global_batch_size": 16, "training.micro_batch_size": 4,
    "training.log_every_steps": 100, "training.schedule.kind": "constant", "tracking.tensorboard": False,
    "checkpoint.every_steps": 50, "checkpoint.ram.every_steps": 1, "resources.time_limit": "30m",
    "resources.memory_per_node": "4GiB", "resilience.exclude_after": 1000,
}
"""The quickstart recipe with steps of some ten milliseconds."""


def until(
    condition: Callable[[], object], what: str, told: Callable[[], str] = lambda: "", timeout_s: float = PATIENCE_S,
) -> None:
    """Wait for something; what is told is printed when it does not come about."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about\n{told()}"
        time.sleep(1.0)


def the_queue_is_written(cluster: DockerCluster) -> None:
    """Wait until slurmctld has written down all jobs of this moment: what it has not is lost when it is killed."""
    # It writes when something has changed: so that it does not wait for a change, one is made.
    newer = ("touch /tmp/now; id=$(squeue -h -o %A | head -n 1); scontrol update JobId=$id AdminComment=kept; "
             "until [ /var/spool/slurmctld/job_state -nt /tmp/now ]; do sleep 0.2; done")
    assert cluster.exec("slurmctld", ["timeout", "60", "sh", "-c", newer], user="root", timeout_s=90).ok


@dataclass(frozen=True)
class Person:
    """Somebody with an account on every machine of the cluster; where it is used with ``with``, no job of theirs is left."""

    cluster: DockerCluster
    name: str

    def __enter__(self) -> Person:
        return self

    def __exit__(self, *_: object) -> None:
        self.run("scancel", "--me")
        until(lambda: not self.run("squeue", "--me", "-h").stdout.strip(), f"the end of {self.name}'s jobs")

    def run(self, *argv: str, on: str = "login", stdin: str = "", timeout_s: float = 120) -> Result:
        """What happens when they type this."""
        return self.cluster.exec(on, list(argv), user=self.name, stdin=stdin, timeout_s=timeout_s)

    def must(self, *argv: str, on: str = "login", stdin: str = "", timeout_s: float = 120) -> str:
        """Output of a command that has to succeed."""
        result = self.run(*argv, on=on, stdin=stdin, timeout_s=timeout_s)
        assert result.ok, f"{self.name}@{on}: {' '.join(argv)}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def document(self, *words: str) -> Any:
        """What ``hpctrain WORDS -o json`` answers."""
        return json.loads(self.must("hpctrain", *words, "-o", "json"))

    def python(self, text: str, *argv: str, on: str = "login") -> Result:
        """Run a few lines of Python there."""
        return self.run(PYTHON, "-I", "-", *argv, on=on, stdin=text)

    def submit(self, recipe: str, sets: Mapping[str, object], *, runs_dir: str = "") -> Run:
        """Submit a recipe; the run."""
        words = [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        where = ["env", f"HPCTRAIN_RUNS_DIR={runs_dir}"] if runs_dir else []
        made = json.loads(self.must(*where, "hpctrain", "submit", recipe, "-o", "json", *words))["submission"]
        return Run(self, str(made["run_name"]), int(made["job_id"]), str(made["run_dir"]))

    def script(self, name: str, text: str, recipe: Mapping[str, object]) -> str:
        """Write a program and a recipe that runs it into the home directory; the recipe's path."""
        home = f"/shared/home/{self.name}"
        self.must("tee", f"{home}/{name}.py", stdin=text)
        whole = {"version": 1, "name": name, **recipe}
        self.must("tee", f"{home}/{name}.yaml", stdin=json.dumps(whole))
        return f"{home}/{name}.yaml"


@dataclass
class Run:
    """A submitted run."""

    owner: Person
    name: str
    id: int
    dir: str

    def read(self, path: str) -> str:
        """A file of the run directory, "" while there is none."""
        result = self.owner.run("cat", f"{self.dir}/{path}")
        return result.stdout if result.ok else ""

    def json(self, path: str) -> dict[str, Any]:
        """A JSON file of it; empty while there is none."""
        with contextlib.suppress(ValueError):
            found = json.loads(self.read(path))
            return found if isinstance(found, dict) else {}
        return {}

    def step(self) -> int:
        """Steps completed, as rank 0 says."""
        return int(self.json("progress.json").get("step") or 0)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Its events, all or of some kinds, oldest first."""
        found: list[dict[str, Any]] = self.owner.document("events", self.dir)["events"]
        return [event for event in found if not kinds or event["kind"] in kinds]

    def slurm(self) -> dict[str, str]:
        """Slurm's own record of the job."""
        words = self.owner.run("scontrol", "show", "job", str(self.id)).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self) -> str:
        """Slurm's word for it."""
        return self.slurm().get("JobState", "")

    def told(self) -> str:
        """The end of its story, for a failed assertion."""
        events = [f"{one['time']:.1f} {one['source']} {one['node']} {one['kind']} {one['step']} {one['reason'][:150]}"
                  for one in self.events()[-60:]]
        queue = self.owner.run("sinfo", "-N", "-o", "%N %T %E").stdout + self.owner.run("squeue", "-a").stdout
        return "\n".join([*events, self.read("logs/job.out")[-3000:], queue])

    def until(self, condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait, and tell the story if it does not come about."""
        until(condition, what, self.told, timeout_s)

    def until_step(self, step: int) -> None:
        """Wait until so many steps are completed."""
        self.until(lambda: self.step() >= step, f"step {step}")

    def until_it_trains_again(self, incarnation: int) -> None:
        """Wait until ranks of a later incarnation than this have completed a step."""
        def trains() -> bool:
            beat = self.json("progress.json")
            return int(beat.get("incarnation", -1)) > incarnation and "timings" in beat

        self.until(trains, f"a step after incarnation {incarnation}")

    def incarnation(self) -> int:
        """Number of the newest start of the ranks."""
        return int(self.json("control/incarnation.json").get("incarnation", -1))

    def nodes(self) -> list[str]:
        """The nodes that train now, rank 0's first."""
        ranks = self.json(f"control/ranks-i{self.incarnation():03d}.json")
        return [str(node) for node in ranks["nodes"]]

    def finish(self, state: str = "COMPLETED", timeout_s: float = 600.0) -> None:
        """Wait until the job has ended this way."""
        ends = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        self.until(lambda: self.state() in ends, "the end", timeout_s)
        assert self.state() == state, self.told()

    def cancel(self) -> None:
        """End it, and wait until its nodes are free."""
        self.owner.run("hpctrain", "cancel", self.dir)
        self.until(lambda: self.state() not in ("PENDING", "RUNNING", "COMPLETING"), "the end of the job")
