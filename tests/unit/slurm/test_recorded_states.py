"""Jobs and nodes in all the states that matter become the same values, whatever version printed them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.slurm import parse
from hpctrain.slurm.model import Job, JobState, Node

GOLDEN = Path(__file__).parents[2] / "golden/slurm"
MARK = "~golden~"
RECORDED = sorted(path.parent.parent.name for path in GOLDEN.glob("*/states/squeue.txt"))


@pytest.fixture(params=RECORDED)
def golden(request: pytest.FixtureRequest) -> Path:
    """Recordings of one Slurm version, made by scripts/record_slurm_outputs.sh."""
    return GOLDEN / request.param / "states"


@pytest.fixture
def jobs(golden: Path) -> dict[str, Job]:
    """The recorded jobs by name."""
    return {job.name: job for job in parse.parse_jobs((golden / "squeue.txt").read_text(), MARK)}


@pytest.fixture
def nodes(golden: Path) -> dict[str, Node]:
    """The recorded nodes by name."""
    return {str(node.name): node for node in parse.parse_nodes((golden / "nodes.txt").read_text())}


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("running", JobState.RUNNING), ("completed", JobState.COMPLETED), ("failed", JobState.FAILED),
        ("killed", JobState.FAILED), ("timeout", JobState.TIMEOUT), ("cancelled", JobState.CANCELLED),
        ("cancelled-pending", JobState.CANCELLED), ("lost", JobState.NODE_FAIL), ("victim", JobState.COMPLETED),
        ("victim-waiting", JobState.PENDING), ("lost-requeued", JobState.PENDING), ("requeued", JobState.COMPLETED),
        ("requeued-waiting", JobState.PENDING), ("requeue-held", JobState.PENDING), ("array", JobState.COMPLETED),
        ("waiting-array", JobState.PENDING), ("parts", JobState.COMPLETED), ("suspended", JobState.COMPLETED),
        ("dependency", JobState.PENDING), ("later", JobState.PENDING), ("large", JobState.PENDING),
    ],
)  # fmt: skip
def test_recorded_job_states(jobs: dict[str, Job], name: str, state: JobState) -> None:
    """Every kind of job that the queue shows."""
    assert jobs[name].state is state


def test_recorded_restarts_are_counted(jobs: dict[str, Job]) -> None:
    """Requeued, preempted and lost with a node alike."""
    assert all(jobs[name].restarts == 1 for name in ("requeued", "requeued-waiting", "victim", "lost-requeued"))
    assert jobs["running"].restarts == 0


def test_recorded_reasons(jobs: dict[str, Job]) -> None:
    """Held jobs are held, others say what they wait for."""
    held = {name for name, job in jobs.items() if job.held}
    assert held == {"requeue-held", "excluding", "waiting-array"}
    assert jobs["later"].reason == "BeginTime"
    assert jobs["dependency"].reason == "DependencyNeverSatisfied"
    assert jobs["down-nodes"].reason.startswith("ReqNodeNotAvail")
    assert jobs["lost"].reason == "NodeDown"
    assert jobs["timeout"].reason == "TimeLimit"


def test_recorded_completing_job_still_has_its_node(jobs: dict[str, Job]) -> None:
    """A cancelled job whose processes do not end yet."""
    job = jobs["ending"]
    assert (job.state, job.nodes) == (JobState.RUNNING, ("n1",))
    assert "COMPLETING" in job.flags


def test_recorded_exclusions(golden: Path, jobs: dict[str, Job]) -> None:
    """A folded list of nodes is expanded; arrays and parts have numbers of their own."""
    excluded = parse.parse_exclusions((golden / "squeue-exclusions.txt").read_text(), MARK)
    assert excluded[jobs["excluding"].job_id] == ("n1", "n5")
    assert excluded[jobs["running"].job_id] == ()


def test_recorded_nodes_out_of_service(nodes: dict[str, Node]) -> None:
    """Drained, draining, failed, set down, silent: each with its reason, none of them available."""
    assert (nodes["n2"].drained, nodes["n2"].state) == (True, "IDLE")
    assert nodes["n2"].reason == "hpctrain: xid 79 [b@c] State=IDLE Gres=gpu:9 é"
    assert (nodes["n3"].drained, nodes["n3"].gpus_allocated, nodes["n3"].reason) == (True, 3, "a person's reason")
    assert "FAIL" in nodes["n4"].flags
    assert nodes["n6"].state == "DOWN"
    assert "NOT_RESPONDING" in nodes["n6"].flags
    assert (nodes["n7"].state, nodes["n7"].reason) == ("DOWN", "record: node failure")
    assert "MAINTENANCE" in nodes["n8"].flags
    assert not any(nodes[name].available for name in ("n2", "n3", "n4", "n5", "n6", "n7", "n8"))
    assert all(nodes[name].reason_user == "root" for name in ("n2", "n3", "n4", "n6", "n7"))


def test_recorded_reboot_has_its_reason(nodes: dict[str, Node]) -> None:
    """Slurm keeps the reason that it was given, and may append to it."""
    assert nodes["n5"].reason.startswith("hpctrain: reboot")


def test_recorded_node_in_service(nodes: dict[str, Node]) -> None:
    """A busy node counts its GPUs, and is available."""
    assert nodes["n1"].available
    assert nodes["n1"].gpus_allocated == 2
    assert nodes["n1"].reason == ""


def test_recorded_future_nodes_are_not_listed(nodes: dict[str, Node]) -> None:
    """Slurm shows them on request only, and nobody requests it."""
    assert "n9" not in nodes


def test_recorded_reservation(golden: Path) -> None:
    """Name, nodes, users and end."""
    (one,) = parse.parse_reservations((golden / "reservations.txt").read_text())
    assert (one.name, one.nodes, one.users) == ("work", ("n8",), ("root",))
    assert one.end_time is not None


def test_recorded_partition(golden: Path) -> None:
    """All eight nodes."""
    (main,) = parse.parse_partitions((golden / "partitions.txt").read_text())
    assert len(main.nodes) == 8
