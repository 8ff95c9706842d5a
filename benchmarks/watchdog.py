"""What a watchdog costs and how soon it sees: many nodes and jobs on a real private Slurm (entry point).

    python benchmarks/watchdog.py [--short] [--nodes 512] [--jobs 2000] [--minutes 5]

As many jobs as there are nodes run at a time, most of them tiny (a ``sleep``), one after the other. This process plays
their coordinators: it writes the sign of life of each running job every five seconds, and stops doing so for one job after
another.
Measured are the watchdog's CPU time, the squeue processes it starts included, what it asked the controller, by its own
count and by slurmctld's (``sdiag``), and how many polls and seconds pass from when a coordinator's silence is long enough
to be called one (STALE_S after its last sign of life) to the decision to queue its job again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from measure import machine  # noqa: E402 - the path is set above

from hpctrain import process  # noqa: E402
from hpctrain.devcluster.cluster import Clusters  # noqa: E402
from hpctrain.files import write_json_atomic  # noqa: E402
from hpctrain.jobs.layout import RunDir  # noqa: E402
from hpctrain.submit.plan_model import Plan, RankCommand, SlurmRequest  # noqa: E402
from hpctrain.watchdog import attempts  # noqa: E402
from hpctrain.watchdog.causes import STALE_S  # noqa: E402

BEAT_S = 5.0
COUNTED = (
    "REQUEST_JOB_INFO", "REQUEST_JOB_USER_INFO", "REQUEST_JOB_INFO_SINGLE", "REQUEST_NODE_INFO", "REQUEST_JOB_REQUEUE",
)
LONG_ENOUGH_S = STALE_S + 60.0
"""Only a job that has so long to go is given a dead coordinator: one that ends by itself needs nobody."""
FOUND_S = 20.0
"""The last coordinator falls silent so long before the end that there is time to find it."""


class Load:
    """The jobs, and this process in the part of their coordinators."""

    def __init__(self, folder: Path, env: Mapping[str, str], seed: int) -> None:
        self.folder, self.env, self.random = folder, env, random.Random(seed)
        self.runs: dict[int, RunDir] = {}
        self.silent: dict[int, float] = {}
        """Job -> when its coordinator gave its last sign of life."""
        self._last: dict[int, float] = {}
        self._beat = 0
        self._lasts: dict[int, float] = {}
        self._ends: dict[int, float] = {}

    def submit(self, count: int, longest_s: int) -> None:
        """Many jobs of one node each, with what the watchdog reads of a run."""
        for number in range(count):
            run = RunDir(self.folder / f"run-{number:05d}")
            for directory in (run.control, run.events):
                directory.mkdir(parents=True)
            plan = Plan(
                run_name=run.name, run_dir=str(run.path), python=sys.executable, nodes=1, spares=0, ranks_per_node=1,
                device="cpu", command=RankCommand(("true",), "/"), slurm=SlurmRequest(run.name, 1, "/dev/null"),
            )
            write_json_atomic(run.plan, plan.to_json(), durable=False)
            seconds = self.random.randint(10, longest_s)
            script = f"#!/bin/sh\nexec sleep {seconds}\n"
            options = ["--parsable", f"--job-name={run.name}", f"--comment=hpctrain:{run.name}", "--nodes=1", "--exclusive",
                       f"--chdir={run.path}", "--output=/dev/null", "--requeue", "--time=60"]
            result = process.run(["sbatch", *options], timeout_s=60, env=self.env, stdin=script)
            if not result.ok:
                sys.exit(f"sbatch failed: {result.stderr}")
            job_id = int(result.stdout)
            write_json_atomic(run.record, {"job_id": job_id, "submitted_time": time.time()}, durable=False)
            self.runs[job_id], self._lasts[job_id] = run, seconds

    def running(self) -> list[int]:
        """Jobs that run now, by what slurmctld says to this process and not to the watchdog."""
        env = {**self.env, "SLURM_TIME_FORMAT": "%s"}
        text = process.run(["squeue", "-h", "-t", "R", "-o", "%i %S"], timeout_s=60, env=env).stdout
        found = [(int(line.split()[0]), float(line.split()[1])) for line in text.splitlines()]
        self._ends |= {job_id: started + self._lasts[job_id] for job_id, started in found}
        return [job_id for job_id, _ in found]

    def beat(self, jobs: list[int]) -> None:
        """One sign of life of each job; none of those that are to be silent, until they have been started again."""
        self._beat += 1
        for job_id in jobs:
            if job_id not in self.silent:
                self._write(job_id, time.time())
            elif attempts.read(self.runs[job_id]):
                self._write(job_id, time.time(), restarts=1)

    def silence(self, jobs: list[int], *, at_once: bool) -> bool:
        """Let one coordinator be dead from now on. False if none is fit.

        Args:
            at_once: its last sign of life is made as old as it must be; a watchdog has to look twice at such a file.
        """
        now = time.time()
        enough = LONG_ENOUGH_S - (STALE_S if at_once else 0.0)
        fit = [job for job in jobs if job in self._last and job not in self.silent
               and self._ends.get(job, now) - now > enough]
        if not fit:
            return False
        job_id = self.random.choice(fit)
        if at_once:
            self._write(job_id, now - STALE_S)
        self.silent[job_id] = self._last[job_id]
        return True

    def _write(self, job_id: int, time_s: float, *, restarts: int = 0) -> None:
        record = {
            "time": time_s, "beat": self._beat, "host": "n1", "restarts": restarts, "incarnation": restarts, "state": "run",
        }
        write_json_atomic(self.runs[job_id].control / "coordinator.json", record, durable=False)
        self._last[job_id] = time_s


class Watched:
    """A watchdog process of the ordinary kind."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self._state = folder / "state"
        settings = folder / "config" / "hpctrain"
        settings.mkdir(parents=True)
        (settings / "config.toml").write_text(f'[watchdog]\nstate_dir = "{self._state}"\n')
        self.log = folder / "watchdog.log"
        with self.log.open("wb") as log:
            argv = [sys.executable, "-m", "hpctrain", "watchdog", "run"]
            env = {**env, "XDG_CONFIG_HOME": str(folder / "config")}
            self._process = process.start(argv, env=env, cwd="/", stdout=log, stderr=log)

    def status(self) -> dict[str, Any]:
        """What it says of itself; {} before its first poll."""
        for path in self._state.glob("*/status.json"):
            found: dict[str, Any] = json.loads(path.read_text())
            return found
        return {}

    def close(self) -> None:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)


def asked(env: Mapping[str, str]) -> dict[str, int]:
    """How many requests of each kind slurmctld has answered."""
    text = process.run(["sdiag"], timeout_s=60, env=env).stdout
    return {name: int(found[1]) if (found := re.search(rf"\b{name}\s.*count:(\d+)", text)) else 0 for name in COUNTED}


def measure(load: Load, watched: Watched, env: Mapping[str, str], seconds: float, faults: int, *,
            at_once: bool) -> dict[str, Any]:
    """Let it run for so long, with so many silent coordinators spread over the time that leaves them to be found."""
    while not watched.status():
        load.beat(load.running())
        time.sleep(1)
    begun, before, first, own = time.time(), asked(env), watched.status(), 0
    looks: list[tuple[float, float, int]] = []
    room = 0.5 * seconds if at_once else seconds - STALE_S - FOUND_S
    due = [begun + room * (number + 0.5) / faults for number in range(faults)]
    next_beat, jobs, seen = 0.0, load.running(), 0
    while time.time() < begun + seconds:
        now = time.time()
        if now >= next_beat:
            jobs, own, next_beat = load.running(), own + 1, now + BEAT_S
            load.beat(jobs)
            seen = max(seen, len(jobs))
        if due and now >= due[0] and load.silence(jobs, at_once=at_once):
            due.pop(0)
        status = watched.status()
        if not looks or looks[-1][2] != status["polls"]:
            looks.append((status["polled"], status["time"], status["polls"]))
        time.sleep(0.25)
    last, after = watched.status(), asked(env)
    for job_id in load.silent:
        if not attempts.read(load.runs[job_id]):
            shown = process.run(["scontrol", "show", "job", str(job_id)], timeout_s=60, env=env).stdout
            print(f"not found: job {job_id}, silent for {time.time() - load.silent[job_id]:.0f} s\n{shown}", file=sys.stderr)
    elapsed = last["time"] - first["time"]
    found = list(_detections(load, looks))
    return {
        "elapsed_s": elapsed, "running": seen, "cpu_percent": 100 * (last["cpu_s"] - first["cpu_s"]) / elapsed,
        "polls": last["polls"] - first["polls"], "queries": last["queries"] - first["queries"],
        "asked": {name: after[name] - before[name] for name in COUNTED}, "own_squeue": own,
        "silenced": len(load.silent), "found": found,
    }


def _detections(load: Load, looks: list[tuple[float, float, int]]) -> Iterator[tuple[float, int]]:
    """Seconds and polls from a coordinator's being silent for long enough to the decision, of each that was found.

    Args:
        looks: of each poll when Slurm had answered it, when what follows from it was done, and its number. Polls that were
            missed make the count larger, never smaller.
    """
    for job_id, last in load.silent.items():
        due = last + STALE_S
        for attempt in attempts.read(load.runs[job_id])[:1]:
            before = max((number for polled, _, number in looks if polled <= due), default=0)
            decided = min((number for _, done, number in looks if done >= attempt.time), default=before)
            yield attempt.time - due, decided - before



@contextmanager
def cluster(nodes: int) -> Iterator[dict[str, str]]:
    """A private cluster without GPUs; the environment that leads to it."""
    with tempfile.TemporaryDirectory(prefix="hpct-", dir="/tmp") as state:
        clusters = Clusters(Path(state) / "clusters", say=lambda _: None)
        try:
            info = clusters.up("watchdog", nodes=nodes, gpus_per_node=0)
            kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SBATCH", "SQUEUE"))}
            yield {**kept, "HPCTRAIN_STATE_DIR": state, **info.env}
        finally:
            clusters.down("watchdog")


def report(nodes: int, jobs: int, found: Mapping[str, Any]) -> None:
    """The table."""
    times, polls = [seconds for seconds, _ in found["found"]], [count for _, count in found["found"]]
    ordinary = found["asked"]["REQUEST_JOB_INFO"] + found["asked"]["REQUEST_JOB_USER_INFO"]
    rows = [
        ("nodes", f"{nodes}"), ("jobs submitted", f"{jobs}"), ("most of them running at a time", f"{found['running']}"),
        ("measured for", f"{found['elapsed_s']:.0f} s"),
        ("CPU, squeue included", f"{found['cpu_percent']:.2f} % of a core"),
        ("polls", f"{found['polls']}"),
        ("questions for jobs or nodes, by its own count", f"{found['queries']}"),
        ("listings of jobs that slurmctld answered, without this benchmark's own", f"{ordinary - found['own_squeue']}"),
        ("listings of nodes that slurmctld answered", f"{found['asked']['REQUEST_NODE_INFO']}"),
        ("coordinators silenced", f"{found['silenced']}"), ("found and queued again", f"{len(times)}"),
        ("requeues that slurmctld did", f"{found['asked']['REQUEST_JOB_REQUEUE']}"),
    ]
    if times:
        rows.append(("from 60 s of silence to the decision, seconds", f"{min(times):.1f} to {max(times):.1f}"))
        rows.append(("from 60 s of silence to the decision, polls", f"{min(polls)} to {max(polls)}"))
    print("| what | value |\n|---|---:|")
    for name, value in rows:
        print(f"| {name} | {value} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--short", action="store_true", help="8 nodes, 16 jobs, half a minute")
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--minutes", type=float)
    chosen = parser.parse_args()
    nodes, jobs, minutes = (8, 16, 0.5) if chosen.short else (512, 2000, 5.0)
    nodes, jobs, minutes = chosen.nodes or nodes, chosen.jobs or jobs, chosen.minutes or minutes
    print(machine(), end="\n\n")
    with cluster(nodes) as env, tempfile.TemporaryDirectory(prefix="hpctrain-runs-") as folder:
        load = Load(Path(folder), env, seed=1)
        load.submit(jobs, longest_s=150 if chosen.short else 300)
        watched = Watched(Path(folder), env)
        try:
            found = measure(load, watched, env, minutes * 60, faults=1 if chosen.short else 12, at_once=chosen.short)
        finally:
            watched.close()
    report(nodes, jobs, found)


if __name__ == "__main__":
    main()
