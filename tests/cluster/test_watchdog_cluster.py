"""One watchdog for the whole cluster on a real Slurm: beside a coordinator that acts itself, beside a user's watchdog, and
taking a node out of service, killed for real at one place after the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.health.policy import JOBS_PREFIX
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.metrics import read_tail
from hpctrain.jobs.reader import read_events
from hpctrain.nodes.journal import Journal
from hpctrain.watchdog import attempts
from tests.cluster.test_watchdog import Bench, kill_batch_step, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


class Site(Bench):
    """A site with a spool, and a journal of what is done about its nodes."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        super().__init__(folder, {**env, "HPCTRAIN_RUNS_DIR": str(folder / "runs"),
                                  "HPCTRAIN_HEALTH_CONFIG": str(folder / "health.json")})
        self.spool, self.journal = folder / "spool", Journal(folder / "nodes")
        self.spool.mkdir(mode=0o1733)
        (folder / "state-dir").mkdir()
        health = {"state_dir": str(folder / "state-dir"), "remedies": {"journal": str(self.journal.directory)}}
        (folder / "health.json").write_text(json.dumps(health))
        settings = folder / "config" / "hpctrain" / "config.toml"
        settings.write_text(settings.read_text() + f'spool_dir = "{self.spool}"\ndrain_after = 1\n')

    def start(self, *options: str) -> None:
        """A watchdog that watches until the test is over."""
        with (self.folder / f"watchdog-{len(self.watchdogs)}.log").open("wb") as log:
            command = [sys.executable, "-m", "hpctrain", "watchdog", "run", *options]
            self.watchdogs.append(process.start(command, env=self.env, cwd="/", stdout=log, stderr=log))

    def deeds(self, where: str) -> list[tuple[str, str]]:
        """(deed, state) of all that a journal has, in order; ``cluster-*`` or another pattern names its directory."""
        found: list[tuple[str, str]] = []
        for path in (self.folder / "state").glob(f"{where}/journal.sqlite"):
            with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
                found += db.execute("SELECT deed, state FROM deeds ORDER BY number").fetchall()
        return found


@pytest.fixture
def site(cluster_env: dict[str, str]) -> Iterator[Site]:
    """A place of its own; whatever happens, no job and no watchdog is left."""
    with tempfile.TemporaryDirectory(prefix="hpctrain-site-", ignore_cleanup_errors=True) as folder:
        made = Site(Path(folder), cluster_env)
        try:
            yield made
        finally:
            made.close()


class Training:
    """A real job of our trainer, with a real coordinator and real agents."""

    def __init__(self, site: Site) -> None:
        self.site = site
        sets: dict[str, object] = {
            "model.config.hidden_size": 64, "model.config.intermediate_size": 128, "model.config.num_hidden_layers": 2,
            "data.sequence_length": 64, "training.global_batch_size": 16, "training.micro_batch_size": 4,
            "training.steps": 50_000,
            "tracking.tensorboard": False, "checkpoint.every_steps": 20, "checkpoint.ram.every_steps": 5,
            "resources.time_limit": "30m",
        }
        words = [word for key, value in sets.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        command = [sys.executable, "-m", "hpctrain", "submit", "quickstart", "-o", "json", *words]
        made = process.run(command, timeout_s=120, env=site.env)
        assert made.ok, made.stderr
        submission = json.loads(made.stdout)["submission"]
        self.id, self.dir = int(submission["job_id"]), RunDir(Path(submission["run_dir"]))
        site.ids.append(self.id)

    def step(self) -> int:
        """The newest step that was logged."""
        return max((point.step for point in read_tail(self.dir.metrics)), default=0)

    def trains(self, restarts: int) -> None:
        """Wait until that start of the job has done steps that none before it had done."""
        wait_for(lambda: self.coordinator().get("restarts") == restarts, f"start {restarts}", self.told)
        before = self.step()
        wait_for(lambda: self.step() > before + 20, f"new steps of start {restarts}", self.told)

    def coordinator(self) -> dict[str, Any]:
        """What the coordinator last said of itself."""
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.dir.control / "coordinator.json").read_text()))
        return {}

    def told(self) -> str:
        """For messages of failed tests."""
        events = [f"{event.time:.1f} {event.source} {event.node} {event.kind} {event.reason[:150]}"
                  for event in read_events(self.dir)][-40:]
        output = self.dir.job_log.read_text(errors="replace")[-2000:] if self.dir.job_log.exists() else ""
        return "\n".join([*events, output, self.site.logs()])


def kill_coordinator_only(job_id: int) -> None:
    """Kill -9 what is left of the batch script's side, so that nobody takes over; the agents live on under their srun."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            mine = f"SLURM_JOB_ID={job_id}\0".encode() in (path / "environ").read_bytes()
            batch = mine and ("hpctrain.agent coordinate" in words or "slurm_script" in words)
            if f"slurmstepd: [{job_id}.batch]" in words or batch:
                os.kill(int(path.name), signal.SIGKILL)


def test_nobody_acts_twice_on_one_failure(site: Site, private_cluster: ClusterInfo) -> None:
    """A job with a coordinator and agents of its own, one watchdog of its user and one of the cluster.

    First the agents bring it back, and the watchdogs let them; then everything of the job is gone, and one of the two
    watchdogs has it queued again while the other sees that it was. Nothing is counted twice in the run's own record, into
    which the watchdog of the cluster does not write.
    """
    assert len(private_cluster.nodes) >= 2
    job = Training(site)
    site.start()
    site.start("--cluster")
    job.trains(0)
    assert (site.spool / f"job-{job.id}.json").exists()

    kill_coordinator_only(job.id)
    job.trains(1)
    assert site.show(job.id, "Restarts") == "1"
    assert [(one.job, one.restarts) for one in attempts.read(job.dir)] == [(job.id, 0)], job.told()
    requeues = [event.source for event in read_events(job.dir) if event.kind == "job.requeued"]
    assert requeues == ["agent"], job.told()
    assert "requeue" not in {deed for deed, _ in (*site.deeds("cluster-*"), *site.deeds("[!c]*"))}, site.logs()

    kill_batch_step(job.id)
    # It was last heard of long ago, so that the test need not wait a minute.
    record = {**job.coordinator(), "time": time.time() - 100}
    for path in (job.dir.control / "coordinator.json", site.spool / f"job-{job.id}.json"):
        path.write_text(json.dumps({key: value for key, value in record.items() if path.parent != site.spool or key in (
            "time", "beat", "host", "restarts", "incarnation", "state", "exit_code", "job")}))
    job.trains(2)
    assert site.show(job.id, "Restarts") == "2"
    assert [one.restarts for one in attempts.read(job.dir)] in ([0], [0, 1]), job.told()
    done = [state for deed, state in (*site.deeds("cluster-*"), *site.deeds("[!c]*")) if deed == "requeue"]
    assert done and set(done) <= {"done", "void"}, site.logs()
    assert {"agent.lost_coordinator", "job.requeued"} & {event.kind for event in read_events(job.dir)}


KILLED = """
import os, signal, sys, time
from dataclasses import replace
from hpctrain.cli.watchdog import _setting
from hpctrain.watchdog.assemble import lease_of, watchdog

deadly = sys.argv[1]

def point(name):
    if name == deadly:
        os.kill(os.getpid(), signal.SIGKILL)

setting = replace(_setting(whole_cluster=True), settle_s=0.0)
lease = lease_of(setting)
while not lease.acquire():
    time.sleep(0.1)
deadline = time.monotonic() + 90
with watchdog(setting, lease, say=lambda line: print(line, flush=True), point=point) as daemon:
    while time.monotonic() < deadline:
        wait_s = daemon.turn()
        if deadly == "settled" and daemon.polls > 1 and not daemon.unsettled:
            break
        time.sleep(min(wait_s, 2.0))
"""
PLACES = ("intended", "acted:attempt", "checked:requeue", "acted:requeue", "begun:drain", "acted:drain", "begun:notify")
"""In the order in which one decision comes to them."""


def node(site: Site, name: str) -> tuple[str, str]:
    """State and reason."""
    shown = process.run(["scontrol", "show", "node", "-o", name], timeout_s=30, env=site.env).stdout
    state, reason = re.search(r"\bState=(\S+)", shown), re.search(r"\bReason=(.*?)(?: \[|$)", shown)
    return (state[1] if state else ""), (reason[1].strip() if reason else "")


def test_killed_for_real_at_every_place_a_node_is_drained_once(site: Site, private_cluster: ClusterInfo) -> None:
    """Kill -9 of one watchdog after the other: one requeue, one failure, one drain, and an operator gives the node back."""
    job_id = site.submit("two-nodes", nodes=2)
    beat = site.run("two-nodes").control / "coordinator.json"
    wait_for(beat.exists, "the start")
    head = site.show(job_id, "BatchHost")
    site.cluster("kill-node", "--silent", "--name", private_cluster.name, head)
    try:
        # What slurmctld does by itself when SlurmdTimeout is over, in its own words.
        site.scontrol("update", f"NodeName={head}", "State=DOWN", "Reason=Not responding")
        wait_for(lambda: head not in site.show(job_id, "NodeList").split(","), "the loss of the batch host")
        for place in (*PLACES, "settled"):
            result = process.run([sys.executable, "-c", KILLED, place], timeout_s=120, env=site.env)
            expected = 0 if place == "settled" else -signal.SIGKILL
            assert result.returncode == expected, f"{place}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        assert site.show(job_id, "Restarts") == "1"
        deeds = site.deeds("cluster-*")
        assert [deed for deed, _ in deeds].count("requeue") == [deed for deed, _ in deeds].count("attempt") == 1, deeds
        assert [state for deed, state in deeds if deed == "drain"] == ["done"], deeds
        acts = [(entry.step, entry.kind) for entry in site.journal.entries() if entry.node == head]
        assert acts == [("drain", "intent"), ("drain", "done")]
    finally:
        site.cluster("start-node", "--name", private_cluster.name, head)
        shown = node(site, head)
        given = process.run([sys.executable, "-m", "hpctrain", "nodes", "undrain", head], timeout_s=60, env=site.env)
    assert "DRAIN" in shown[0] and shown[1].startswith(f"{JOBS_PREFIX}: 1 failure of a job is blamed on it"), shown
    assert given.ok, given.stderr
    wait_for(lambda: "DRAIN" not in node(site, head)[0] and "DOWN" not in node(site, head)[0], "its return to service")

