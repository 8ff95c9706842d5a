"""Nodes whose hardware fails: Slurm's prolog and health program take them out of service, and a person's word stands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster
from tests.docker.people import Person, until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(600)]

REASON = "memory test, do not touch"
FAULT = "xid-79"


@pytest.fixture
def oper(docker_cluster: DockerCluster) -> Iterator[Person]:
    """The operator, who mends and brings back all nodes at the end."""
    person = Person(docker_cluster, "oper")
    yield person
    for node in ("c1", "c2", "c3", "c4"):
        docker_cluster.heal_node(node)
        if "drain" in state(person, node):
            person.must("scontrol", "update", f"NodeName={node}", "State=UNDRAIN")


def state(who: Person, node: str) -> str:
    """State and reason as sinfo shows them."""
    return who.must("sinfo", "-h", "-N", "-n", node, "-o", "%T|%E").strip()


def checks(cluster: DockerCluster, node: str) -> int:
    """How many health checks of a node are on record."""
    path = f"/var/lib/hpctrain/health/{node}.events.jsonl"
    return cluster.exec(node, ["grep", "-c", '"context":"periodic"', path], user="root").stdout.count("\n") and int(
        cluster.exec(node, ["grep", "-c", '"context":"periodic"', path], user="root").stdout)


def test_bad_nodes_leave_service_and_a_persons_drain_stays(docker_cluster: DockerCluster, oper: Person) -> None:
    """Idle c3 is drained by the health program; c4, which a person has drained, stays theirs; c1 and c2 do the work."""
    alice = Person(docker_cluster, "alice")
    oper.must("scontrol", "update", "NodeName=c4", "State=DRAIN", f"Reason={REASON}")
    seen = {node: checks(docker_cluster, node) for node in ("c3", "c4")}
    for node in seen:
        docker_cluster.break_node(node, FAULT)

    until(lambda: "hpctrain:" in state(oper, "c3"), "the drain of c3", lambda: state(oper, "c3"))
    assert state(oper, "c3").startswith("drained|hpctrain: xid: ")
    until(lambda: checks(docker_cluster, "c4") > seen["c4"] + 1, "two checks of c4")
    tended = docker_cluster.exec("c4", ["hpctrain", "nodes", "tend", "--once"], user="root", timeout_s=120)
    assert tended.ok, tended.stderr
    for words in (("undrain", "c4"), ("validate", "c4"), ("reboot", "c4"), ("replace", "c4")):
        refused = docker_cluster.exec("c4", ["hpctrain", "nodes", *words], user="root", timeout_s=120)
        assert refused.returncode == 5, f"{words}: {refused.stdout}{refused.stderr}"
        assert REASON in refused.stderr
    assert state(oper, "c4") == f"drained|{REASON}"

    shown = alice.must("hpctrain", "nodes", "list")
    assert "by hpctrain: hpctrain: xid" in shown, shown
    assert REASON in shown


def test_a_prolog_sends_the_job_elsewhere(docker_cluster: DockerCluster, oper: Person) -> None:
    """A GPU fails on an idle node just before a job would start there: the job runs on another, and the node says why."""
    alice = Person(docker_cluster, "alice")
    sees = "import os, time\nprint('ran on', os.environ['SLURMD_NODENAME'], flush=True)\ntime.sleep(2)\n"
    recipe = alice.script("elsewhere", sees, {
        "command": ["elsewhere.py"], "resources": {"nodes": 1, "ranks_per_node": 1, "gpus_per_node": 8, "time_limit": "5m"}})
    before = int(docker_cluster.exec("c1", ["date", "+%s"]).stdout)
    docker_cluster.break_node("c1", FAULT)

    run = alice.submit(recipe, {})
    run.finish()

    assert state(oper, "c1").startswith("drained|hpctrain: xid: "), state(oper, "c1")
    ran = run.events("ranks.started")
    assert [event["node"] for event in ran] and "c1" not in {event["node"] for event in ran}, run.told()
    log = docker_cluster.exec("c1", ["cat", "/var/lib/hpctrain/health/c1.events.jsonl"], user="root").stdout
    drains = [line for line in log.splitlines() if '"level":"drain"' in line]
    contexts = [line for line in drains if float(line.split('"time":')[1].split(",")[0]) >= before]
    # The health program may have been a moment faster than the job.
    assert any('"context":"prolog"' in line or '"context":"periodic"' in line for line in contexts), log[-2000:]
