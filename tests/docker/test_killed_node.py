"""The first thing that hpctrain promises, on separate hosts: a node dies under a run, and no byte of its result differs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster
from tests.docker.people import SMALL, Person, Run, until

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS = 300
LOOPBACK = "127.0.1.1"
NODES = ("c1", "c2", "c3", "c4")


@pytest.fixture
def names_that_mean_loopback(docker_cluster: DockerCluster) -> Iterator[None]:
    """Each node takes its own name for a loopback address, as Debian's and Ubuntu's installers set it up."""
    for node in NODES:
        put = f'sed -i "1i {LOOPBACK} $(hostname)" /run/hpctrain-cluster/hosts'
        assert docker_cluster.exec(node, ["sh", "-c", put], user="root").ok
        until(lambda: docker_cluster.exec(node, ["getent", "hosts", node]).stdout.startswith(LOOPBACK), f"{node}'s own name")  # noqa: B023
    yield
    for node in NODES:
        assert docker_cluster.exec(node, ["sed", "-i", f"/^{LOOPBACK} /d", "/run/hpctrain-cluster/hosts"], user="root").ok


def weights(run: Run) -> str:
    """Hash of the final weights."""
    return run.owner.must("sha256sum", f"{run.dir}/model/model.safetensors").split()[0]


def losses(run: Run) -> list[str]:
    """The loss of each step as it was written, the newest where a step was done twice."""
    newest: dict[int, str] = {}
    lines = run.owner.must("cat", f"{run.dir}/metrics.jsonl").splitlines()
    for line in lines:
        step, loss = line.split('"step":')[1], line.split('"loss":')[1]
        newest[int(step.split(",")[0].strip(" }"))] = loss.split(",")[0].strip(" }")
    return [newest[step] for step in sorted(newest)]


def test_a_killed_node_changes_no_byte(docker_cluster: DockerCluster, names_that_mean_loopback: None) -> None:
    """Alice's run on nodes that know themselves as 127.0.1.1 loses a node, goes on with the spare, and ends byte-equal."""
    with Person(docker_cluster, "alice") as alice:
        loses_a_node(docker_cluster, alice)


def loses_a_node(docker_cluster: DockerCluster, alice: Person) -> None:
    """Two runs of the same recipe, one of them hit."""
    sets = {**SMALL, "training.steps": STEPS}
    calm = alice.submit("quickstart", sets)
    calm.finish()

    hit = alice.submit("quickstart", {**sets, "resources.spares": 1})
    hit.until_step(50)
    victim, before = hit.nodes()[1], hit.incarnation()
    try:
        docker_cluster.kill(victim)
        hit.until_it_trains_again(before)
        hit.finish()
        rungs = [event["evidence"]["rung"] for event in hit.events("recovery.started")]
        assert rungs == ["R2"], hit.told()
        assert victim not in hit.nodes()
        assert weights(hit) == weights(calm)
        assert losses(hit) == losses(calm)
        assert len(losses(hit)) == STEPS
    finally:
        docker_cluster.start(victim)
