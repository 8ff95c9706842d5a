"""A private cluster as its user meets it: started, broken on purpose, repaired, taken down; all for real."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpctrain.clock import SystemClock
from hpctrain.devcluster import processes
from hpctrain.devcluster.cluster import KILL_REASON, Clusters
from hpctrain.devcluster.control import Control
from hpctrain.devcluster.kill import kill_members
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.members import Member, find_members
from hpctrain.devcluster.nodes import kill_node, start_node
from hpctrain.devcluster.prepare import SOCKET_PATH_LIMIT
from hpctrain.devcluster.state import ClusterInfo, layout_of, load_spec
from hpctrain.errors import ClusterError, NotFoundError

pytestmark = pytest.mark.cluster
CLOCK = SystemClock()


@pytest.fixture
def clusters(cluster_state_dir: Path) -> Clusters:
    """The clusters of this test session."""
    return Clusters(cluster_state_dir / "clusters", say=print)


@pytest.fixture
def small(clusters: Clusters) -> Iterator[ClusterInfo]:
    """A cluster of two nodes of the test's own, to be broken."""
    name = f"small-{os.getpid()}"
    yield clusters.up(name, 2, 1)
    clusters.down(name)


def spec_of(cluster: ClusterInfo) -> Spec:
    """Size and ports of a cluster."""
    spec = load_spec(cluster.state_dir)
    assert spec is not None
    return spec


def layout(cluster: ClusterInfo) -> Layout:
    """Paths of a cluster."""
    return layout_of(spec_of(cluster), cluster.state_dir.parent)


def slurm(cluster: ClusterInfo, *argv: str, cwd: Path | None = None) -> str:
    """Run a Slurm command on a cluster and return what it prints."""
    env = {"PATH": os.environ["PATH"], **cluster.env}
    return subprocess.run(argv, env=env, cwd=cwd, check=True, capture_output=True, text=True, timeout=60).stdout


def eventually(what: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether it becomes true in time."""
    deadline = time.monotonic() + timeout_s
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def hpctrain(cluster_state_dir: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user would."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "HPCTRAIN"))}
    return subprocess.run(
        [sys.executable, "-m", "hpctrain", *argv], env=env | {"HPCTRAIN_STATE_DIR": str(cluster_state_dir)},
        capture_output=True, text=True, timeout=60, check=False,
    )


def start_job(cluster: ClusterInfo, directory: Path, node: str | None = None) -> list[Member]:
    """Start a job on both nodes that has a batch script and one step with children; return its processes."""
    script = "#!/bin/sh\nsrun --no-kill sh -c 'sleep 1000 & exec sleep 1001'\n"
    (directory / "job.sh").write_text(script)
    slurm(cluster, "sbatch", "--no-kill", "--nodes=2", "--output=job.out", "job.sh", cwd=directory)

    def tasks() -> list[Member]:
        return [member for member in find_members(layout(cluster)) if member.kind == "task"]

    def sleeps(name: str) -> int:
        return sum(processes.program(member.pid) == "sleep" and member.node == name for member in tasks())

    assert eventually(lambda: sleeps("n1") == 2 and sleeps("n2") == 2)
    return tasks()


def alive(members: list[Member]) -> list[Member]:
    """Those that still run."""
    return [m for m in members if processes.is_alive(m.pid) and processes.start_ticks(m.pid) == m.started]


def test_jobs_run_on_all_nodes_with_gpus_of_their_own(private_cluster: ClusterInfo) -> None:
    """A job gets the nodes and as many (simulated) GPUs as it asks for."""
    command = "echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES"
    out = slurm(private_cluster, "srun", "-N4", "-t1", "--gpus-per-node=8", "sh", "-c", command)

    assert [f"n{number} 0,1,2,3,4,5,6,7" for number in (1, 2, 3, 4)] == sorted(out.splitlines())
    assert "gpu:sim:8" in slurm(private_cluster, "sinfo", "--noheader", "--format=%G")


def test_nothing_can_be_read_by_others(private_cluster: ClusterInfo) -> None:
    """The directories are closed to other users, and the munge key, which alone makes a client obeyed, is private."""
    place = layout(private_cluster)

    assert all(directory.stat().st_mode & 0o077 == 0 for directory in place.directories)
    assert 0o600 == place.munge_key.stat().st_mode & 0o777


def test_a_second_up_changes_nothing_and_is_quick(private_cluster: ClusterInfo, clusters: Clusters) -> None:
    """Where all runs, 'up' finds so in well under a second and restarts nothing."""
    before = find_members(layout(private_cluster))
    begun = time.monotonic()
    clusters.up(private_cluster.name)

    assert time.monotonic() - begun < 2
    assert before == find_members(layout(private_cluster))


def test_another_size_is_refused(private_cluster: ClusterInfo, clusters: Clusters) -> None:
    """A cluster that exists is not resized behind its jobs' backs; the error says to take it down first."""
    with pytest.raises(ClusterError, match="4 nodes x 8 GPUs, and 5 x 8") as caught:
        clusters.up(private_cluster.name, nodes=5)
    assert "hpctrain cluster down" in caught.value.advice


@pytest.mark.parametrize("victims", [["slurmctld"], ["munged"], ["n1"], ["munged", "slurmctld", "n1", "n2"]])
def test_up_restarts_killed_daemons(small: ClusterInfo, clusters: Clusters, victims: list[str]) -> None:
    """After kill -9 of any daemons, 'up' starts these and no others, and jobs run again."""
    place = layout(small)
    pids = {daemon: processes.read_pid_file(place.pid_file(daemon)) for daemon in ("munged", "slurmctld", "n1", "n2")}
    for victim in victims:
        os.kill(pids[victim] or 0, signal.SIGKILL)
    assert eventually(lambda: clusters.plan(small.name).missing == tuple(d for d in pids if d in victims))

    clusters.up(small.name)

    after = {daemon: processes.read_pid_file(place.pid_file(daemon)) for daemon in pids}
    assert set(victims) == {daemon for daemon in pids if pids[daemon] != after[daemon]}
    out = slurm(small, "srun", "-N2", "-t1", "sh", "-c", "echo $SLURMD_NODENAME")
    assert ["n1", "n2"] == sorted(out.split())


def test_the_queue_survives_a_dead_controller(small: ClusterInfo, clusters: Clusters, tmp_path: Path) -> None:
    """A job that waits in the queue is still there after slurmctld was killed and started again."""
    slurm(small, "sbatch", "--hold", "--wrap=true", "--job-name=keepme", cwd=tmp_path)
    saved = layout(small).controller_state / "job_state"
    assert eventually(lambda: saved.exists() and b"keepme" in saved.read_bytes())
    assert small.slurmctld_pid is not None
    os.kill(small.slurmctld_pid, signal.SIGKILL)
    assert eventually(lambda: clusters.plan(small.name).missing == ("slurmctld",))

    clusters.up(small.name)

    assert "keepme\n" == slurm(small, "squeue", "--noheader", "--format=%j")


def test_up_repairs_a_half_made_directory(clusters: Clusters, cluster_state_dir: Path) -> None:
    """A directory without a usable record, with a daemon still running in it, is cleared and made anew."""
    name = f"half-{os.getpid()}"
    try:
        first = clusters.up(name, 1, 0)
        old = find_members(layout(first))
        (first.state_dir / "cluster.json").write_text('{"version": 1, "na')
        second = clusters.up(name, 1, 0)
        assert not alive(old)
        assert "n1\n" == slurm(second, "sinfo", "--noheader", "--Node", "--format=%N")
    finally:
        clusters.down(name)
    assert not (cluster_state_dir / "clusters" / name).exists()


def test_stale_pid_files_and_taken_ports_are_survived(small: ClusterInfo, clusters: Clusters) -> None:
    """As after a reboot: nothing runs, the pids belong to others and so does a port. 'up' works, and nobody else is hurt."""
    place = layout(small)
    kill_members(place, lambda _: True, CLOCK)
    bystander = subprocess.Popen(["sleep", "60"])
    for daemon in ("munged", "slurmctld", "n1", "n2"):
        place.pid_file(daemon).write_text(f"{bystander.pid}\n")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", small.controller_port))
        taken.listen()
        again = clusters.up(small.name)

    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()
    assert small.controller_port != again.controller_port
    assert "n1\nn2\n" == slurm(again, "sinfo", "--noheader", "--Node", "--format=%N")


def test_a_daemon_that_does_not_come_up_is_explained(small: ClusterInfo, clusters: Clusters) -> None:
    """The error names the daemon, quotes its log and says where the rest of it is."""
    place = layout(small)
    assert small.munged_pid is not None
    os.kill(small.munged_pid, signal.SIGKILL)
    assert eventually(lambda: clusters.plan(small.name).missing == ("munged",))
    place.munge_key.write_bytes(b"")

    with pytest.raises(ClusterError, match=r"munged did not start:\n +Error: +Keyfile must be") as caught:
        clusters.up(small.name)
    assert str(place.log("munged")) == caught.value.where


def test_killing_a_node_ends_all_of_it_and_nothing_else(small: ClusterInfo, tmp_path: Path) -> None:
    """slurmd, step daemon and tasks of the node die, the other node's live on, and Slurm shows the node DOWN."""
    tasks = start_job(small, tmp_path)
    place = layout(small)

    killed = kill_node(place, "n2", CLOCK, silent=False)

    assert {"slurmd", "slurmstepd", "task"} == {member.kind for member in killed}
    assert not [member for member in find_members(place) if member.node == "n2"]
    assert {member.pid for member in tasks if member.node == "n1"} == {member.pid for member in alive(tasks)}
    state = Control(place).nodes()["n2"]
    assert ("DOWN", KILL_REASON) == (state.base, state.reason)

    back = start_node(place, spec_of(small), "n2", CLOCK)
    assert back.in_service
    assert "n2\n" == slurm(small, "srun", "-w", "n2", "-N1", "-t1", "sh", "-c", "echo $SLURMD_NODENAME")


def test_a_silent_death_is_left_for_slurm_to_find(small: ClusterInfo) -> None:
    """With --silent the node is dead and Slurm still believes in it; it comes back all the same."""
    place = layout(small)
    kill_node(place, "n1", CLOCK, silent=True)

    assert "IDLE" == Control(place).nodes()["n1"].base
    assert start_node(place, spec_of(small), "n1", CLOCK).in_service


def test_a_persons_drain_survives_death_and_return(small: ClusterInfo) -> None:
    """Neither kill-node nor start-node nor up overwrites the reason that a person gave a node."""
    place = layout(small)
    slurm(small, "scontrol", "update", "nodename=n2", "state=drain", "reason=fan is loud")
    kill_node(place, "n2", CLOCK, silent=False)
    state = start_node(place, spec_of(small), "n2", CLOCK)

    assert (True, False, "fan is loud") == (state.responds, state.in_service, state.reason)


def test_down_leaves_nothing(clusters: Clusters, tmp_path: Path) -> None:
    """With a job running, 'down' leaves no process and no file, also not outside the state directory; twice is fine."""
    root = tmp_path / ("long-" + "x" * 60) / "clusters"
    far = Clusters(root, say=print)
    cluster = far.up("gone", 2, 1)
    place = layout(cluster)
    assert place.runtime_dir != place.state_dir
    assert len(cluster.munge_socket) <= SOCKET_PATH_LIMIT
    start_job(cluster, tmp_path)
    members = find_members(place)

    assert {m.pid for m in members} <= {m.pid for m in far.down("gone")}
    assert not alive(members)
    assert not place.runtime_dir.exists()
    assert not root.exists()
    assert [] == far.down("gone")


def test_the_commands_speak_json_on_stdout_only(private_cluster: ClusterInfo, cluster_state_dir: Path) -> None:
    """Status and env print data on standard output, the same with -o json, and nothing else there."""
    name = private_cluster.name
    status = hpctrain(cluster_state_dir, "cluster", "status", "--name", name, "-o", "json")
    env = hpctrain(cluster_state_dir, "cluster", "env", "--name", name)

    [report] = json.loads(status.stdout)["clusters"]
    assert (0, ["n1", "n2", "n3", "n4"]) == (status.returncode, [node["name"] for node in report["node_states"]])
    printed = subprocess.run(
        ["sh", "-c", 'eval "$1"; printf %s "$SLURM_CONF"', "sh", env.stdout], capture_output=True, text=True, check=True
    ).stdout
    assert private_cluster.slurm_conf == printed


def test_unknown_names_are_refused(private_cluster: ClusterInfo, cluster_state_dir: Path) -> None:
    """A cluster or node that does not exist ends with the exit code of 'not found', and one line that says so."""
    absent = hpctrain(cluster_state_dir, "cluster", "env", "--name", "absent")
    node = hpctrain(cluster_state_dir, "cluster", "kill-node", "n9", "--name", private_cluster.name)

    assert (NotFoundError.exit_code, "") == (absent.returncode, absent.stdout)
    assert NotFoundError.exit_code == node.returncode
    assert "no node 'n9'" in node.stderr
    assert "Traceback" not in absent.stderr + node.stderr


def test_dry_runs_change_nothing(private_cluster: ClusterInfo, cluster_state_dir: Path) -> None:
    """--dry-run of every command that changes something says what it would do and does not."""
    before = find_members(layout(private_cluster))
    name = ("--name", private_cluster.name, "--dry-run")
    runs = [
        hpctrain(cluster_state_dir, "cluster", *argv)
        for argv in (("down", *name), ("kill-node", "n1", *name), ("start-node", "n1", *name), ("up", *name),
                     ("up", "--name", "never", "--dry-run"))
    ]

    assert [0] * 5 == [run.returncode for run in runs]
    assert "would kill 1 process (1 slurmd) on node n1" in runs[1].stderr
    assert "would start munged" in runs[4].stderr
    assert before == find_members(layout(private_cluster))
    assert not (cluster_state_dir / "clusters" / "never").exists()
