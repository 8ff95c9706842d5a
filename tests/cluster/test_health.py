"""Health checks under a real slurmd: prolog, epilog and health program on two nodes with simulated GPUs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.clock import SystemClock
from hpctrain.devcluster.cluster import Clusters
from hpctrain.devcluster.faults import FAULTS
from hpctrain.devcluster.health_setup import enable_health
from hpctrain.devcluster.node_files import NodeFiles
from hpctrain.devcluster.simulated_node import NodeKind
from hpctrain.devcluster.state import layout_of, load_spec
from hpctrain.errors import SlurmError
from hpctrain.health.config import parse_config
from hpctrain.health.policy import Limits
from hpctrain.nodes.service import Nodes
from hpctrain.slurm.via_cli import SlurmCli
from tests.cluster.conftest import require_slurm

pytestmark = pytest.mark.cluster

KIND = NodeKind(gpus=8)


@dataclass
class HealthCluster:
    """A private cluster whose nodes are checked."""

    directory: Path
    conf: Path

    def files(self, node: str) -> NodeFiles:
        return NodeFiles(self.directory / "nodes" / node, node, KIND)

    def slurm(self, *argv: str) -> str:
        environment = {"PATH": os.environ["PATH"], "SLURM_CONF": str(self.conf), "HOME": str(self.directory)}
        result = process.run(argv, timeout_s=60, env=environment, cwd=str(self.directory))
        assert result.ok, result.stderr
        return result.stdout.strip()

    def node(self, name: str) -> tuple[str, str]:
        """State and reason."""
        state, _, reason = self.slurm("sinfo", "-h", "-N", "-n", name, "-o", "%T|%E").partition("|")
        return state.rstrip("*"), reason

    def events(self, node: str) -> list[dict[str, Any]]:
        path = self.directory / "verdicts" / f"{node}.events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def submit(self, text: str, *options: str) -> str:
        script = self.directory / f"job{time.monotonic_ns()}.sh"
        script.write_text(f"#!/bin/sh\n{text}\n")
        return self.slurm("sbatch", "--parsable", "-o", str(self.directory / "out.%j"), *options, str(script))


def wait_for(what: Callable[[], bool], *, seconds: float = 90) -> None:
    """Until it holds; a busy machine has time."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster(cluster_state_dir: Path) -> Iterator[HealthCluster]:
    """Two nodes with prolog, epilog and a health program that runs every two seconds."""
    require_slurm()
    clusters = Clusters(cluster_state_dir / "clusters", say=print)
    name = f"health-{os.getpid()}"
    try:
        info = clusters.up(name, nodes=2)
        spec = load_spec(info.state_dir)
        assert spec is not None
        layout = layout_of(spec, cluster_state_dir / "clusters")
        enable_health(layout, spec, interval_s=2)
        made = HealthCluster(layout.health_dir, layout.slurm_conf)
        yield made
    finally:
        clusters.down(name)


def test_a_job_runs_on_a_healthy_node(cluster: HealthCluster) -> None:
    """Prolog and epilog let the job through, and the prolog's verdict names it."""
    job = cluster.submit("hostname", "-w", "n1", "--gres=gpu:2")

    wait_for(lambda: (job, "epilog") in {(event.get("job"), event.get("context")) for event in cluster.events("n1")})
    assert {"ok"} == {event["level"] for event in cluster.events("n1") if event.get("job") == job}


def test_a_broken_node_is_drained_and_its_job_runs_elsewhere(cluster: HealthCluster) -> None:
    """The prolog sets the reason, the job is requeued and finishes on the other node, and the healed node returns."""
    cluster.files("n1").inject(FAULTS["row-remap-failed"].make(0))
    # Submitted to both and first to n1, whose prolog fails.
    job = cluster.submit("echo ran on $SLURMD_NODENAME", "-w", "n1", "--gres=gpu:2")

    wait_for(lambda: "drain" in cluster.node("n1")[0])
    assert "hpctrain: gpu_row_remap: GPU 0: a memory row could not be remapped" == cluster.node("n1")[1]
    wait_for(lambda: "PENDING" in cluster.slurm("squeue", "-h", "-j", job, "-o", "%T"))
    cluster.slurm("scontrol", "update", f"JobId={job}", "ReqNodeList=")
    cluster.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for(lambda: (cluster.directory / f"out.{job}").exists() and "n2" in (cluster.directory / f"out.{job}").read_text())

    cluster.files("n1").heal(reboot=True)
    cluster.slurm("scontrol", "update", "NodeName=n1", "State=UNDRAIN")
    seen = len(cluster.events("n1"))
    wait_for(lambda: len(cluster.events("n1")) > seen + 1)
    assert "idle" == cluster.node("n1")[0]


def test_a_persons_drain_survives(cluster: HealthCluster) -> None:
    """The health program finds a fault on a node that a person has drained, and leaves state and reason alone."""
    cluster.slurm("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=operator: memory test")
    cluster.files("n2").inject(FAULTS["xid-79"].make(5))
    wait_for(lambda: any(event.get("level") == "drain" for event in cluster.events("n2")))
    seen = len(cluster.events("n2"))
    wait_for(lambda: len(cluster.events("n2")) > seen + 2)

    assert ("drained", "operator: memory test") == cluster.node("n2")

    cluster.slurm("scontrol", "update", "NodeName=n2", "State=RESUME")
    wait_for(lambda: cluster.node("n2")[1].startswith("hpctrain: xid: GPU 5: Xid 79"))
    cluster.files("n2").heal(reboot=True)
    cluster.slurm("scontrol", "update", "NodeName=n2", "State=UNDRAIN")


def test_a_healed_node_is_validated_and_a_persons_drain_is_refused(cluster: HealthCluster) -> None:
    """Drained by a fault, it returns only once checks of after the healing are clean; a person's drain survives."""
    environment = {"PATH": os.environ["PATH"], "SLURM_CONF": str(cluster.conf), "HOME": str(cluster.directory)}
    config, _ = parse_config(json.loads((cluster.directory / "health.json").read_text()))
    nodes = Nodes(SlurmCli(environment), config, SystemClock(), Limits(recovery_s=3.0))
    cluster.files("n2").inject(FAULTS["xid-79"].make(5))
    wait_for(lambda: cluster.node("n2")[1].startswith("hpctrain: xid: GPU 5: Xid 79"))
    wait_for(lambda: nodes.look(["n2"])[0].decision.rule == "ladder")
    assert not nodes.validate("n2")[0]
    assert "drain" in cluster.node("n2")[0]

    cluster.files("n2").heal(reboot=True)
    wait_for(lambda: nodes.validate("n2")[0])
    assert ("idle", "none") == cluster.node("n2")

    cluster.slurm("scontrol", "update", "NodeName=n2", "State=DRAIN", "Reason=operator: memory test")
    seen = len(cluster.events("n2"))
    wait_for(lambda: len(cluster.events("n2")) > seen + 3)
    for change in (nodes.validate, nodes.undrain):
        with pytest.raises(SlurmError, match="operator: memory test"):
            change("n2")
    assert ("drained", "operator: memory test") == cluster.node("n2")
    cluster.slurm("scontrol", "update", "NodeName=n2", "State=UNDRAIN")


def test_a_wedged_driver_does_not_hold_a_job_up(cluster: HealthCluster) -> None:
    """An NVML call that never returns: the job runs, the node stays, and the event names the call."""
    from hpctrain.devcluster.faults import Changes

    cluster.files("n1").inject(Changes(gpus={"init": "!hang"}))
    job = cluster.submit("echo done", "-w", "n1", "--gres=gpu:1")
    wait_for((cluster.directory / f"out.{job}").exists)

    told = [event for event in cluster.events("n1") if event.get("job") == job and event["context"] == "prolog"]
    assert ["unknown"] == [event["level"] for event in told]
    assert "nvmlInit" in told[0]["evidence"][0]["message"]
    assert "drain" not in cluster.node("n1")[0]
    cluster.files("n1").heal()
