"""What an ordinary user may not do to nodes, by whatever command of ours; docs/threat-model.md has the table."""

from __future__ import annotations

import json

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster
from hpctrain.errors import HostsFailedError, NotPermittedError, StorageError
from tests.docker.people import PYTHON, Person

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

REFUSED = (NotPermittedError.exit_code, StorageError.exit_code)
"""Slurm says no, or the site's own records are not this user's to write."""
ACTS = (
    ("nodes", "drain", "c4", "--reason", "mine"), ("nodes", "undrain", "c3"), ("nodes", "reboot", "c4"),
    ("nodes", "replace", "c4"), ("nodes", "tend", "--once"), ("nodes", "spares", "add", "c4"),
    ("watchdog", "once", "--cluster"), ("watchdog", "run", "--cluster"),
)


def nodes(who: Person) -> dict[str, str]:
    """State of every node, and why it is out of service: a node that is in service may keep an old reason for a while."""
    found = {}
    for line in who.must("sinfo", "-h", "-N", "-o", "%N|%T|%E|%u").splitlines():
        name, state, reason = line.split("|", 2)
        found[name] = f"{state}|{reason}" if state.startswith(("drain", "down")) else state.rstrip("*")
    return found


def test_no_command_of_ours_lets_an_ordinary_user_change_a_node(docker_cluster: DockerCluster) -> None:
    """Each is refused with one error and a code of the table; with a health configuration of her own it is no other."""
    alice, oper = Person(docker_cluster, "alice"), Person(docker_cluster, "oper")
    oper.must("scontrol", "update", "NodeName=c3", "State=DRAIN", "Reason=hpctrain: xid: GPU 3: Xid 79")
    try:
        before = nodes(oper)
        own = {"version": 1, "state_dir": "/tmp/alice-state", "drain_via": "scontrol",
               "remedies": {"journal": "/tmp/alice-journal", "replace": ["/bin/true", "{node}"]}}
        alice.must("tee", "/tmp/alice-health.json", stdin=json.dumps(own))
        for words in ACTS:
            for variables in ([], ["HPCTRAIN_HEALTH_CONFIG=/tmp/alice-health.json"]):
                refused = alice.run("env", *variables, "hpctrain", *words)
                shown = f"{variables} {words}: {refused.returncode} {refused.stdout}{refused.stderr}"
                if words == ("nodes", "tend", "--once") and variables:
                    # It keeps its own records, finds none about any node, and so has nothing to do.
                    assert refused.ok, shown
                    continue
                assert refused.returncode in REFUSED, shown
                errors = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
                assert len(errors) == 1, shown
                assert "Traceback" not in refused.stderr, shown
        assert nodes(oper) == before
    finally:
        oper.must("scontrol", "update", "NodeName=c3", "State=UNDRAIN")


def test_the_checks_drain_only_for_root(docker_cluster: DockerCluster) -> None:
    """Alice runs the very programs that Slurm runs, with a configuration that finds a fault: nothing is drained."""
    alice, oper = Person(docker_cluster, "alice"), Person(docker_cluster, "oper")
    own = {"version": 1, "state_dir": "/tmp/alice-state", "drain_via": "scontrol", "expected": {"gpus": 8},
           "modes": {"disk_space": "drain"}, "limits": {"disk_space": {"critical_percent": 0}}}
    alice.must("tee", "/tmp/alice-health.json", on="c4", stdin=json.dumps(own))
    before = nodes(oper)

    for context in ("prolog", "epilog", "periodic"):
        alice.run("env", "HPCTRAIN_HEALTH_CONFIG=/tmp/alice-health.json", PYTHON, "-m", "hpctrain.health", context, on="c4")
    found = alice.run("env", "HPCTRAIN_HEALTH_CONFIG=/tmp/alice-health.json", "hpctrain", "health", "check",
                      "--context", "periodic", on="c4")
    assert found.returncode == 2, found.stdout + found.stderr  # it has found one, and only says so
    for script in ("prolog.sh", "epilog.sh", "health_program.sh"):
        alice.run("/bin/sh", f"/etc/hpctrain/{script}", on="c4")

    assert nodes(oper) == before


def test_what_root_keeps_is_not_for_others(docker_cluster: DockerCluster) -> None:
    """Records of the checks cannot be read or written, nor can the programs that root runs for Slurm."""
    alice = Person(docker_cluster, "alice")
    for path in ("/var/lib/hpctrain/health", "/var/lib/hpctrain/health/c4.state.json"):
        assert not alice.run("cat", path, on="c4").ok
    for path in ("/etc/hpctrain", "/etc/slurm", "/opt/hpctrain", "/opt/hpctrain/bin/python"):
        assert not alice.run("test", "-w", path, on="c4").ok, path
    assert not alice.run("find", "/etc/hpctrain", "/opt/hpctrain", "-writable", "-not", "-type", "l", on="c4").stdout.strip()


def test_an_operator_may_not_and_an_administrator_may(docker_cluster: DockerCluster) -> None:
    """Slurm's AdminLevel=Operator is about jobs and accounts; nodes are for AdminLevel=Admin, as the hint says."""
    oper, bob = Person(docker_cluster, "oper"), Person(docker_cluster, "bob")
    level = ["sacctmgr", "-i", "modify", "user", "where", "name=bob", "set"]
    assert docker_cluster.exec("slurmctld", [*level, "AdminLevel=Operator"], user="root").ok
    try:
        refused = bob.run("hpctrain", "nodes", "drain", "c4", "--reason", "mine")
        assert refused.returncode == NotPermittedError.exit_code, refused.stdout + refused.stderr
        assert "AdminLevel=Admin" in refused.stderr
    finally:
        assert docker_cluster.exec("slurmctld", [*level, "AdminLevel=None"], user="root").ok

    oper.must("hpctrain", "nodes", "drain", "c4", "--reason", "new fan")
    try:
        assert "draining|new fan|oper" in nodes(oper)["c4"] or "drained|new fan|oper" in nodes(oper)["c4"], nodes(oper)
        refused = oper.run("hpctrain", "nodes", "undrain", "c4")
        assert refused.returncode == 5, refused.stderr  # a person's, also for the person who did it
    finally:
        oper.must("scontrol", "update", "NodeName=c4", "State=UNDRAIN")


def test_the_fleet_is_for_those_who_may_log_in(docker_cluster: DockerCluster) -> None:
    """SSH to a node is root's and the operator's: Alice's own key opens it neither as herself nor as anybody else."""
    alice, oper = Person(docker_cluster, "alice"), Person(docker_cluster, "oper")
    before = nodes(oper)
    drain = ["scontrol", "update", "NodeName=c4", "State=DRAIN", "Reason=mine"]

    for who in ([], ["-l", "root"], ["-l", "oper", "--sudo"]):
        refused = alice.run("hpctrain", "fleet", "run", "-w", "c4", *who, "--", *drain)
        assert refused.returncode == HostsFailedError.exit_code, refused.stdout + refused.stderr
        assert "may not log in" in refused.stdout + refused.stderr
        assert "Traceback" not in refused.stderr

    assert nodes(oper) == before
