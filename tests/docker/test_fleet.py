"""``hpctrain fleet`` on hosts of their own: who may go where, the health package on every node, nodes that are lost."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

NODES = ("c1", "c2", "c3", "c4")
SITE = "/root/fleet-test.toml"
TIMEOUT_S = 300


def fleet(cluster: DockerCluster, *arguments: str, user: str = "root") -> tuple[int, Any, str]:
    """Run one command on the login node with ``-o json``: exit code, its document, its messages."""
    name, *rest = arguments
    answer = cluster.exec("login", ["hpctrain", "fleet", name, "-o", "json", *rest], user=user, timeout_s=TIMEOUT_S)
    assert answer.stdout.startswith("{"), answer.stderr
    document = json.loads(answer.stdout)
    return answer.returncode, document[document["kind"]], answer.stderr


def must(cluster: DockerCluster, machine: str, *argv: str, user: str = "root") -> str:
    """Run a command that has to succeed; what it prints."""
    answer = cluster.exec(machine, list(argv), user=user, timeout_s=TIMEOUT_S)
    assert answer.ok, f"{machine}: {argv}: {answer.stderr or answer.stdout}"
    return answer.stdout


def wait_for_state(cluster: DockerCluster, node: str, state: str) -> None:
    """Poll until Slurm says so of a node; a star, for one that does not answer, is part of it."""
    deadline = time.monotonic() + TIMEOUT_S
    seen = ""
    while seen != state:
        assert time.monotonic() < deadline, f"{node} is {seen}, not {state}"
        seen = must(cluster, "login", "sinfo", "-h", "-N", "-n", node, "-o", "%T").strip()
        time.sleep(0.5)


@pytest.fixture
def node_down(docker_cluster: DockerCluster) -> Iterator[str]:
    """c4 without power; it is back in service afterwards."""
    wait_for_state(docker_cluster, "c4", "idle")
    docker_cluster.kill("c4")
    yield "c4"
    docker_cluster.start("c4")
    # It may have been given up meanwhile.
    docker_cluster.exec("login", ["scontrol", "update", "nodename=c4", "state=resume"], user="root")
    wait_for_state(docker_cluster, "c4", "idle")


@pytest.fixture
def restored(docker_cluster: DockerCluster) -> Iterator[None]:
    """Gives the nodes back the programs that the image came with."""
    yield
    script = (
        "d=$(ls -d /opt/hpctrain-health/versions/before-* 2>/dev/null | head -n 1); [ -n \"$d\" ] || exit 0; "
        "for f in prolog.sh epilog.sh health_program.sh reboot_program.sh health.env health.json; do "
        "rm -f /etc/hpctrain/$f; [ ! -e $d/$f ] || cp -p $d/$f /etc/hpctrain/$f; done; "
        # A check that runs may still write there.
        "mv /opt/hpctrain-health /opt/old-health && rm -rf /opt/old-health || true"
    )
    for node in NODES:
        must(docker_cluster, node, "sh", "-c", script)


def test_root_and_the_operator_go_everywhere_and_alice_nowhere(docker_cluster: DockerCluster) -> None:
    """Every node answers under its own name; sudo makes the operator root; an ordinary user's key opens no node."""
    code, records, err = fleet(docker_cluster, "run", "--all", "--", "hostname")
    assert (0, list(NODES)) == (code, [record["stdout"].strip() for record in records]), err

    code, records, err = fleet(docker_cluster, "run", "--all", "--sudo", "--", "id", "-un", user="oper")
    assert (0, {"root\n"}) == (code, {record["stdout"] for record in records}), err

    code, records, _ = fleet(docker_cluster, "run", "--all", "--", "hostname", user="alice")
    assert (18, {"AuthenticationError"}) == (code, {record["error"]["kind"] for record in records})


def test_a_node_that_runs_no_slurmd_is_checked(docker_cluster: DockerCluster) -> None:
    """Its checks run over SSH from what is sent along: they find its broken GPU and say that slurmd is gone."""
    must(docker_cluster, "c2", "pkill", "-x", "slurmd")
    try:
        docker_cluster.break_node("c2", "gpu-lost")
        must(docker_cluster, "login", "scontrol", "update", "nodename=c2", "state=down", "reason=fleet test")
        code, records, err = fleet(docker_cluster, "check", "--down")
        before = must(docker_cluster, "login", "scontrol", "show", "node", "c2")
    finally:
        docker_cluster.heal_node("c2")
        must(docker_cluster, "c2", "slurmd", "-N", "c2")
        must(docker_cluster, "login", "scontrol", "update", "nodename=c2", "state=resume")
        wait_for_state(docker_cluster, "c2", "idle")

    assert (18, ["c2"]) == (code, [record["host"] for record in records]), err
    health = records[0]["health"]
    assert "drain" == health["level"], health
    assert health["daemons"]["slurmd"] is None
    assert health["daemons"]["munged"]
    assert "gpu_lost" in {finding["check"] for finding in health["findings"] if finding["level"] == "drain"}
    assert "Reason=fleet test" in before
    assert not docker_cluster.exec("c2", ["sh", "-c", "ls /dev/shm/hpctrain-look.*"], user="root").stdout


@pytest.mark.usefixtures("restored")
def test_the_checks_are_installed_upgraded_and_taken_back(docker_cluster: DockerCluster) -> None:
    """All nodes get the package and run jobs with it; one that was without power is told as drift, mended, and gone back."""
    code, drift, _ = fleet(docker_cluster, "install-health", "--all", "--status")
    assert (18, {"nothing is installed"}) == (code, {text for host in drift["hosts"] for text in host["drift"]})

    code, first, err = fleet(docker_cluster, "install-health", "--all")
    assert (0, {first["version"]}) == (code, {host["version"] for host in first["hosts"]}), err
    assert set(NODES) == set(must(docker_cluster, "login", "srun", "-N4", "hostname", user="alice").split())
    log = must(docker_cluster, "c1", "tail", "-n", "20", "/var/lib/hpctrain/health/c1.events.jsonl")
    assert '"context":"prolog"' in log
    assert "health_failure" not in log
    in_use = must(docker_cluster, "c1", "sh", "-c", ". /etc/hpctrain/health.env; echo $HPCTRAIN_PYTHON").strip()
    assert f"/opt/hpctrain-health/versions/{first['version']}/bin/python" == in_use

    edit = f"sed 's/^version = 1/version = 1\\nsettle_s = 33/' /etc/hpctrain/health.toml >{SITE}"
    must(docker_cluster, "login", "sh", "-c", edit)
    wait_for_state(docker_cluster, "c4", "idle")  # killed in an epilog, it would be waited for
    docker_cluster.kill("c4")
    try:
        code, second, err = fleet(
            docker_cluster, "install-health", "--all", "--config", SITE, "--connect-timeout", "5",
        )
        versions = {host["host"]: host["version"] for host in second["hosts"]}
        assert (18, None) == (code, versions.pop("c4"))
        assert {second["version"]} == set(versions.values())
        assert "1 of 4 hosts failed: c4" in err
    finally:
        docker_cluster.start("c4")
        docker_cluster.exec("login", ["scontrol", "update", "nodename=c4", "state=resume"], user="root")
        wait_for_state(docker_cluster, "c4", "idle")

    code, drift, err = fleet(docker_cluster, "install-health", "--all", "--config", SITE, "--diff")
    behind = {host["host"]: host for host in drift["hosts"] if host["drift"]}
    assert (18, ["c4"]) == (code, list(behind)), err
    assert f"has version {first['version']}" in behind["c4"]["drift"]
    assert '+  "settle_s": 33' in behind["c4"]["diff"]

    code, third, err = fleet(docker_cluster, "install-health", "--all", "--config", SITE)
    assert (0, ["c4"]) == (code, [host["host"] for host in third["hosts"] if host["changed"]]), err
    assert 0 == fleet(docker_cluster, "install-health", "--all", "--config", SITE, "--status")[0]

    code, back, err = fleet(docker_cluster, "install-health", "--all", "--rollback")
    assert (0, {first["version"]}) == (code, {host["version"] for host in back["hosts"]}), err
    assert set(NODES) == set(must(docker_cluster, "login", "srun", "-N4", "hostname", user="alice").split())


def test_a_bundle_of_all_nodes_holds_no_secret(docker_cluster: DockerCluster, node_down: str) -> None:
    """Planted secrets and the munge key are nowhere in it, the lost node is in its manifest, and only root may read it."""
    planted = [f"planted{secrets.token_hex(8)}" for _ in range(3)]
    munge_key = must(docker_cluster, "c1", "base64", "-w0", "/etc/munge/munge.key")
    log, site_log = "/var/log/slurm/slurmd.log", "/root/site.log"
    must(docker_cluster, "c1", "sh", "-c", f"echo 'error: login with DB_PASSWORD={planted[0]}' >>{log}")
    text = f"API_TOKEN={planted[1]}\\n--password {planted[2]} x\\nplain\\n"
    must(docker_cluster, "c1", "sh", "-c", f"printf '{text}' >{site_log}")
    must(docker_cluster, "c1", "ln", "-sfn", "/etc/munge/munge.key", "/root/link")
    must(docker_cluster, "login", "rm", "-rf", "/root/bundle", "/root/bundle.tar.gz")
    try:
        code, bundle, err = fleet(
            docker_cluster, "collect", "--all", "--connect-timeout", "5", "--out", "/root/bundle.tar.gz",
            "--also", site_log, "--also", "/root/link", "--also", "/etc/munge/munge.key",
        )
        must(docker_cluster, "login", "tar", "-C", "/root", "-xzf", "/root/bundle.tar.gz")
        everything = must(docker_cluster, "login", "grep", "-raoE", "planted[0-9a-f]{16}|redacted", "/root/bundle")
        key = docker_cluster.exec(
            "login", ["sh", "-c", "k=$(cat /etc/munge/munge.key); grep -raF -- \"$k\" /root/bundle"], user="root",
        )
        nodes = must(docker_cluster, "login", "cat", "/root/bundle/slurm/nodes.txt")
        mode = must(docker_cluster, "login", "stat", "-c", "%a %U", "/root/bundle.tar.gz").strip()
        site = must(docker_cluster, "login", "cat", "/root/bundle/hosts/c1/also/root/site.log")
    finally:
        must(docker_cluster, "c1", "sh", "-c", f"rm -f {site_log} /root/link; sed -i /DB_PASSWORD=/d {log}")
        must(docker_cluster, "login", "rm", "-rf", "/root/bundle", "/root/bundle.tar.gz")

    manifest = bundle["manifest"]
    assert 18 == code, err
    assert "planted" not in everything
    assert "redacted" in everything
    assert munge_key
    assert not key.stdout
    assert "API_TOKEN=[redacted]\n--password [redacted] x\nplain\n" == site
    assert {"also/root/link", "also/etc/munge/munge.key"} <= set(manifest["hosts"]["c1"]["missing"])
    assert [True, True, True, False] == [manifest["hosts"][name]["ok"] for name in NODES]
    assert manifest["hosts"][node_down]["error"]
    assert "NodeName=c1" in nodes
    assert "600 root" == mode
