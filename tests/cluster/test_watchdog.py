"""Watchdogs on a real Slurm: real jobs whose batch script is gone, was cancelled, or never got past a prolog.

The batch scripts here write the sign of life that a coordinator writes, and do nothing else: what is tested is the watchdog.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.submit.plan_model import Plan, RankCommand, SlurmRequest
from hpctrain.watchdog import attempts
from hpctrain.watchdog.budget import Cause

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

BEAT = """
import json, os, pathlib, sys, time
mark = pathlib.Path("control/started-before")
first, beat = not mark.exists(), 0
mark.touch()
while True:
    beat += 1
    # The first start was last heard of long ago, so that a test need not wait a minute.
    record = {"job": int(os.environ["SLURM_JOB_ID"]), "time": time.time() - (100 if first else 0),
              "beat": 1 if first else beat, "incarnation": 0, "state": "run", "host": os.environ["SLURMD_NODENAME"],
              "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0"))}
    path = pathlib.Path("control/coordinator.json")
    new = path.with_suffix(".new")
    if not first or beat == 1:
        new.write_text(json.dumps(record))
        new.replace(path)
    time.sleep(0.5)
"""


class Bench:
    """Submits runs with a stand-in for the coordinator, and runs watchdogs."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder = folder
        self.env = {**env, "HPCTRAIN_STATE_DIR": env["HPCTRAIN_STATE_DIR"], "XDG_CONFIG_HOME": str(folder / "config")}
        (folder / "config" / "hpctrain").mkdir(parents=True)
        settings = f'[watchdog]\npoll_s = 2\ncontinue_after_s = 5\nstate_dir = "{folder}/state"\n'
        (folder / "config" / "hpctrain" / "config.toml").write_text(settings)
        self.watchdogs: list[subprocess.Popen[bytes]] = []
        self.ids: list[int] = []

    def submit(self, name: str, *, nodes: int = 1, healthy: bool = False) -> int:
        """A run whose batch script only beats; unless it is to be healthy, its first start was last heard of long ago."""
        run = RunDir(make_private_dir(self.folder / name))
        for directory in (run.control, run.events, run.logs):
            make_private_dir(directory)
        if healthy:
            (run.control / "started-before").touch()
        plan = Plan(
            run_name=name, run_dir=str(run.path), python=sys.executable, nodes=nodes, spares=0, ranks_per_node=1,
            device="cpu", command=RankCommand(("true",), "/"), slurm=SlurmRequest(name, nodes, str(run.job_log)),
        )
        write_json_atomic(run.plan, plan.to_json(), durable=False)
        # As the batch script of a run, which is submitted again where a run goes on as another job.
        script = f"#!/bin/bash\n#SBATCH --job-name={name}\n#SBATCH --comment=hpctrain:{name}\n" + "".join(
            f"#SBATCH {option}\n" for option in (
                f"--nodes={nodes}", "--no-kill", "--requeue", f"--output={run.job_log}", "--time=10",
            )
        ) + f"exec '{sys.executable}' - <<'EOS'\n{BEAT}\nEOS\n"
        run.script.write_text(script)
        sbatch = ["sbatch", "--parsable"]
        job_id = int(process.run(sbatch, timeout_s=30, env=self.env, cwd=str(run.path), stdin=script).stdout)
        write_json_atomic(run.record, {"job_id": job_id, "submitted_time": time.time()}, durable=False)
        self.ids.append(job_id)
        return job_id

    def run(self, name: str) -> RunDir:
        """A run's directory."""
        return RunDir(self.folder / name)

    def show(self, job_id: int, field: str) -> str:
        """A value of 'scontrol show job'."""
        text = process.run(["scontrol", "show", "job", str(job_id)], timeout_s=30, env=self.env).stdout
        found = re.search(rf"\b{field}=(\S+)", text)
        return found[1] if found else ""

    def scontrol(self, *arguments: str) -> None:
        """Change something, and mean it."""
        result = process.run(["scontrol", *arguments], timeout_s=30, env=self.env)
        assert result.ok, result.stderr

    def cluster(self, *arguments: str) -> None:
        """'hpctrain cluster ...', and mean it."""
        command = [sys.executable, "-m", "hpctrain", "cluster", *arguments]
        result = process.run(command, timeout_s=120, env=self.env)
        assert result.ok, result.stderr

    def watchdog(self) -> subprocess.Popen[bytes]:
        """Another watchdog that watches until the test is over."""
        with (self.folder / f"watchdog-{len(self.watchdogs)}.log").open("wb") as log:
            command = [sys.executable, "-m", "hpctrain", "watchdog", "run"]
            self.watchdogs.append(process.start(command, env=self.env, cwd="/", stdout=log, stderr=log))
        return self.watchdogs[-1]

    def once(self, *options: str) -> list[str]:
        """'hpctrain watchdog once': what it did or would do."""
        command = [sys.executable, "-m", "hpctrain", "watchdog", "once", "-o", "json", *options]
        result = process.run(command, timeout_s=120, env=self.env)
        assert result.ok, result.stderr
        return list(json.loads(result.stdout)["watchdog"]["deeds"])

    def holder(self) -> int:
        """Process id of the watchdog that acts."""
        newest = max((self.folder / "state").glob("*/lease/lease-*.json"), default=None)
        return int(json.loads(newest.read_text())["pid"]) if newest else 0

    def logs(self) -> str:
        """What the watchdogs said, for messages of failed tests."""
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("watchdog-*.log")))

    def close(self) -> None:
        """End what was started."""
        for watchdog in self.watchdogs:
            watchdog.kill()
            watchdog.wait()
        for job_id in self.ids:
            process.run(["scancel", str(job_id)], timeout_s=30, env=self.env)
        # Its agents write into the run's directory to the end: it is removed when they are gone.
        deadline, listed = time.monotonic() + 60, ["squeue", "-h", "-j", ",".join(map(str, self.ids))]
        while self.ids and process.run(listed, timeout_s=30, env=self.env).stdout.strip() and time.monotonic() < deadline:
            time.sleep(0.2)


@pytest.fixture
def bench(cluster_env: dict[str, str]) -> Iterator[Bench]:
    """A place of its own; whatever happens, no job and no watchdog is left."""
    with tempfile.TemporaryDirectory(prefix="hpctrain-watchdog-", ignore_cleanup_errors=True) as folder:
        bench = Bench(Path(folder), cluster_env)
        try:
            yield bench
        finally:
            bench.close()


def wait_for(condition: Callable[[], bool], what: str, told: Callable[[], str] = lambda: "") -> None:
    """Patient: other things may run on this machine."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come to pass\n{told()}"
        time.sleep(0.3)


def kill_batch_step(job_id: int) -> None:
    """Kill -9 the batch script and the slurmstepd that would tell: Slurm goes on calling the job RUNNING."""
    script = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if f"slurmstepd: [{job_id}.batch]" in words:
                script.insert(0, int(path.name))
            elif f"SLURM_JOB_ID={job_id}\0".encode() in (path / "environ").read_bytes():
                script.append(int(path.name))
    assert len(script) >= 2, "no batch step was found"
    for pid in script:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_a_job_without_a_batch_script_comes_back_once_with_two_watchdogs_of_which_one_dies(bench: Bench) -> None:
    """One requeue although two watch and the one that acts is killed right after it; a cancelled job stays cancelled."""
    cancelled, gone = bench.submit("cancelled"), bench.submit("gone", nodes=2)
    for name in ("cancelled", "gone"):
        wait_for((bench.run(name).control / "coordinator.json").exists, f"the start of {name}")
    kill_batch_step(gone)
    process.run(["scancel", str(cancelled)], timeout_s=30, env=bench.env)
    assert bench.show(gone, "JobState") == "RUNNING"

    bench.watchdog()
    bench.watchdog()
    wait_for(lambda: bench.show(gone, "Restarts") == "1", "the requeue", bench.logs)
    assert bench.once() == [], "a third one sees that another is at work"
    status = process.run([sys.executable, "-m", "hpctrain", "watchdog", "status", "-o", "json"], timeout_s=60, env=bench.env)
    shown = json.loads(status.stdout)["watchdog"]
    assert status.ok and shown["running"] and "requeue" in {deed["deed"] for deed in shown["deeds"]}, status.stdout
    first = bench.holder()
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: bench.holder() not in (0, first), "the other watchdog's turn", bench.logs)
    wait_for(lambda: bench.show(gone, "JobState") == "RUNNING", "the second start", bench.logs)
    beat = bench.run("gone").control / "coordinator.json"
    wait_for(lambda: json.loads(beat.read_text())["restarts"] == 1, "the second start's beat", bench.logs)

    bench.watchdogs[0].kill()
    bench.watchdogs[1].kill()
    assert bench.show(gone, "Restarts") == "1"
    assert [attempt.rung for attempt in attempts.read(bench.run("gone"))] == ["R3"]
    told = [event.kind for event in read_events(bench.run("gone")) if event.source == "watchdog"]
    assert told == ["fault.detected", "recovery.started"]
    assert bench.show(cancelled, "JobState") == "CANCELLED"
    assert read_events(bench.run("cancelled")) == [] and attempts.read(bench.run("cancelled")) == []


PROLOG = """#!/bin/sh
# Says that it has run on this node; once it is armed, the first node that it runs on is bad for good.
cd "{folder}" || exit 0
: > "seen-$SLURMD_NODENAME"
[ -e armed ] || exit 0
mkdir claimed 2>/dev/null && echo "$SLURMD_NODENAME" > bad
[ "$(cat bad 2>/dev/null)" != "$SLURMD_NODENAME" ]
"""


@pytest.fixture
def bad_prolog(private_cluster: ClusterInfo, bench: Bench) -> Iterator[Path]:
    """The prolog of one node fails, and jobs that meet it are held, as is Slurm's default; a file that names the node."""
    conf = Path(private_cluster.slurm_conf)
    include = conf.parent / "health.conf"
    before = conf.read_text(), include.read_text()
    prolog, bad = bench.folder / "prolog.sh", bench.folder / "bad"
    prolog.write_text(PROLOG.format(folder=bench.folder))
    prolog.chmod(0o755)
    conf.write_text(before[0].replace(",nohold_on_prolog_fail", ""))
    include.write_text(f"{before[1]}\nProlog={prolog}\nPrologFlags=Alloc\n")
    bench.scontrol("reconfigure")
    try:
        # A slurmd may be late to read its configuration again.
        everywhere = ["srun", f"--nodes={len(private_cluster.nodes)}", "--time=1", "true"]
        wait_for(
            lambda: process.run(everywhere, timeout_s=60, env=bench.env).ok
            and len(list(bench.folder.glob("seen-*"))) == len(private_cluster.nodes), "a prolog on every node",
        )
        (bench.folder / "armed").touch()
        yield bad
    finally:
        conf.write_text(before[0])
        include.write_text(before[1])
        bench.scontrol("reconfigure")
        if bad.exists():
            bench.scontrol("update", f"NodeName={bad.read_text().strip()}", "State=UNDRAIN")


def test_a_job_held_after_a_failed_prolog_is_released_without_that_node(bench: Bench, bad_prolog: Path) -> None:
    """First a dry run, which changes nothing; then the job runs elsewhere, and the node is on its list of excluded ones."""
    job_id = bench.submit("held", nodes=2, healthy=True)
    wait_for(lambda: "launch" in bench.show(job_id, "Reason"), "the hold")
    bad = bad_prolog.read_text().strip()
    shown = ["scontrol", "show", "node", bad]
    wait_for(lambda: "DRAIN" in process.run(shown, timeout_s=30, env=bench.env).stdout, "the drain")

    would = bench.once("--dry-run")
    assert any("release" in line for line in would), would
    assert "launch" in bench.show(job_id, "Reason")
    did = bench.once()
    wait_for(lambda: bench.show(job_id, "JobState") == "RUNNING", "the start", lambda: "\n".join(did))
    assert bench.show(job_id, "ExcNodeList") == bad
    counted = attempts.read(bench.run("held"))
    assert [(attempt.cause, attempt.nodes) for attempt in counted] == [(Cause.PROLOG, (bad,))]


def test_a_run_goes_on_as_another_job_while_slurm_waits_for_a_dead_node(
    bench: Bench, private_cluster: ClusterInfo,
) -> None:
    """As an ordinary user must: nobody declares the node DOWN; the old job is cancelled before the new one may start."""
    old = bench.submit("stuck", nodes=2)
    beat, record = bench.run("stuck").control / "coordinator.json", bench.run("stuck").record
    wait_for(beat.exists, "the start")
    names = process.run(["scontrol", "show", "hostnames", bench.show(old, "NodeList")], timeout_s=30, env=bench.env)
    head, dead = names.stdout.split()
    assert bench.show(old, "BatchHost") == head
    bench.cluster("kill-node", "--silent", "--name", private_cluster.name, dead)
    try:
        bench.watchdog()
        wait_for(lambda: json.loads(record.read_text())["job_id"] != old, "the continuation", bench.logs)
        new = int(json.loads(record.read_text())["job_id"])
        bench.ids.append(new)
        wait_for(lambda: bench.show(new, "JobState") == "RUNNING", "its start", bench.logs)
        assert bench.show(new, "ExcNodeList") == dead
        wait_for(lambda: json.loads(beat.read_text())["job"] == new, "its beat", bench.logs)
        # What slurmctld does by itself when SlurmdTimeout is over; only then does the old job show how it ended.
        bench.scontrol("update", f"NodeName={dead}", "State=DOWN", "Reason=test")
        wait_for(lambda: bench.show(old, "JobState") == "CANCELLED", "the end of the old job", bench.logs)
        assert bench.show(new, "JobState") == "RUNNING"
        assert [attempt.rung for attempt in attempts.read(bench.run("stuck"))] == ["R3"]
    finally:
        bench.cluster("start-node", "--name", private_cluster.name, dead)
