"""Health checks under a real slurmd: prolog, epilog and health program on two nodes with simulated GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpctrain.devcluster.faults import FAULTS, Changes
from tests.cluster.checked_cluster import HealthCluster, checked_cluster, wait_for
from tests.cluster.conftest import require_slurm

pytestmark = pytest.mark.cluster

@pytest.fixture(scope="module")
def cluster(cluster_state_dir: Path) -> Iterator[HealthCluster]:
    """Two nodes with prolog, epilog and a health program that runs every two seconds."""
    require_slurm()
    with checked_cluster(cluster_state_dir, f"health-{os.getpid()}", nodes=2) as made:
        yield made


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


def test_what_a_job_leaves_running_is_ended(cluster: HealthCluster) -> None:
    """A process that slipped out of its job is gone after the epilog, and the node stays in service."""
    pid_file = cluster.directory / "left.pid"
    stray = f"echo $$ > {pid_file}.new; mv {pid_file}.new {pid_file}; exec sleep 600"
    job = cluster.submit(
        f"setsid -f sh -c '{stray}' >/dev/null 2>&1 </dev/null\nwhile [ ! -e {pid_file} ]; do sleep 0.1; done",
        "-w", "n1", "--gres=gpu:1",
    )  # fmt: skip
    wait_for(lambda: (job, "epilog") in {(event.get("job"), event.get("context")) for event in cluster.events("n1")})

    stat = Path(f"/proc/{pid_file.read_text().strip()}/stat")
    assert not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"
    assert "drain" not in cluster.node("n1")[0]


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


def test_a_wedged_driver_does_not_hold_a_job_up(cluster: HealthCluster) -> None:
    """An NVML call that never returns: the job runs, the node stays, and the event names the call."""
    cluster.files("n1").inject(Changes(gpus={"init": "!hang"}))
    job = cluster.submit("echo done", "-w", "n1", "--gres=gpu:1")
    wait_for((cluster.directory / f"out.{job}").exists)

    told = [event for event in cluster.events("n1") if event.get("job") == job and event["context"] == "prolog"]
    assert ["unknown"] == [event["level"] for event in told]
    assert "nvmlInit" in told[0]["evidence"][0]["message"]
    assert "drain" not in cluster.node("n1")[0]
    cluster.files("n1").heal()
