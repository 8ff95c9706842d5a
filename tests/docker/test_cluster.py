"""The dockerised cluster itself: it comes up, keeps its names, and survives the restart of its controller."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable

import pytest

from hpctrain import process
from hpctrain.devcluster.docker_cluster import DockerCluster
from tests.docker.people import Person, the_queue_is_written
from tests.source_tree import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Poll until something holds."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, f"never came true: {what}"
        time.sleep(0.5)


def states(cluster: DockerCluster) -> dict[str, str]:
    """Slurm's state of each node."""
    answer = cluster.exec("login", ["sinfo", "-N", "-h", "-o", "%N %T"])
    assert answer.ok, answer.stderr
    return dict(line.split() for line in answer.stdout.splitlines())


def test_what_the_readme_has_alice_submit(docker_cluster: DockerCluster) -> None:
    """The command that docker-slurm/README.md gives her works from her home."""
    (line,) = re.findall(r"^    (hpctrain submit .+)$", (ROOT / "docker-slurm/README.md").read_text(), flags=re.MULTILINE)
    alice = Person(docker_cluster, "alice")
    assert "#SBATCH" in alice.must("sh", "-c", f"cd && {line} --dry-run")


def test_all_nodes_are_idle_and_run_a_job_of_an_ordinary_user(docker_cluster: DockerCluster) -> None:
    """Four hosts with names and addresses of their own run a job that alice submits."""
    wait_until(lambda: set(states(docker_cluster).values()) == {"idle"}, "all nodes idle")
    answer = docker_cluster.exec("login", ["srun", "-N4", "-l", "sh", "-c", "hostname; hostname -i; id -un"])
    assert answer.ok, answer.stderr
    lines = {tuple(line.split(": ", 1)) for line in answer.stdout.splitlines()}
    said = {text for _, text in lines}
    assert {"c1", "c2", "c3", "c4", "alice"} <= said
    assert len(said) == 9


def test_hpctrain_is_installed_from_the_wheel_on_login_node_and_nodes(docker_cluster: DockerCluster) -> None:
    """Login node and nodes have the command, and it finds the site's Slurm."""
    for machine in ("login", "c1"):
        assert docker_cluster.exec(machine, ["hpctrain", "--version"]).ok
    answer = docker_cluster.exec("login", ["hpctrain", "list", "-o", "json"])
    assert answer.ok, answer.stderr
    json.loads(answer.stdout)


def test_the_queue_survives_the_restart_of_the_controller(docker_cluster: DockerCluster) -> None:
    """A job that runs, and one that waits, are as they were after slurmctld's container was killed and started."""
    for hold in (False, True):
        script = ["sbatch", "--parsable", *(["--hold"] if hold else []), "--output=/dev/null", "--wrap", "sleep 600"]
        assert docker_cluster.exec("login", script).ok
    wait_until(lambda: [one.split()[1] for one in queue(docker_cluster)] == ["RUNNING", "PENDING"], "one runs, one waits")
    before = queue(docker_cluster)
    # What slurmctld has not yet written down when its machine loses power is lost with Slurm anywhere: it writes soon.
    the_queue_is_written(docker_cluster)
    docker_cluster.kill("slurmctld")
    docker_cluster.start("slurmctld")
    wait_until(lambda: queue(docker_cluster) == before, "the same queue")
    assert docker_cluster.exec("login", ["scancel", "--me"]).ok
    wait_until(lambda: not queue(docker_cluster), "an empty queue")


def queue(cluster: DockerCluster) -> list[str]:
    """Jobs with their states."""
    return sorted(cluster.exec("login", ["squeue", "-h", "-o", "%i %T"]).stdout.splitlines())


def test_a_pulled_network_cable_is_noticed_and_plugged_in_again(docker_cluster: DockerCluster) -> None:
    """A node without network does not answer, and is the same node with the same address afterwards."""
    before = docker_cluster.address("c4")
    docker_cluster.disconnect("c4")
    assert not docker_cluster.exec("login", ["timeout", "3", "ping", "-c1", "c4"]).ok
    docker_cluster.reconnect("c4")
    wait_until(lambda: docker_cluster.exec("login", ["timeout", "3", "ping", "-c1", "c4"]).ok, "c4 answers")
    assert docker_cluster.address("c4") == before
    wait_until(lambda: states(docker_cluster)["c4"] == "idle", "c4 in service")


def test_two_more_nodes_join_a_running_cluster(docker_cluster: DockerCluster) -> None:
    """Compose's own --scale brings c5 into service without a restart of anything."""
    docker_cluster.up(5, build=False)
    wait_until(lambda: states(docker_cluster).get("c5") == "idle", "c5 idle")
    assert docker_cluster.exec("login", ["srun", "-wc5", "hostname"]).stdout.strip() == "c5"
    docker_cluster.up(4, build=False)
    gone = ["scontrol", "update", "NodeName=c5", "State=FUTURE"]
    assert docker_cluster.exec("slurmctld", gone, user="root").ok
    assert set(states(docker_cluster)) == {"c1", "c2", "c3", "c4"}


def test_no_secret_is_baked_into_the_image(docker_cluster: DockerCluster) -> None:
    """The image holds no host key, no munge key, no database and no pip configuration."""
    places = "/etc/munge/munge.key /etc/ssh/ssh_host_* /etc/site-pip /root/.ssh /cluster/* /var/lib/mysql/*"
    look = f"find {places} ! -type d 2>/dev/null; true"
    answer = process.run(["docker", "run", "--rm", "hpctrain-slurm:trixie", "sh", "-c", look], timeout_s=60)
    assert answer.ok
    assert not answer.stdout.strip()
