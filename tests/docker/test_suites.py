"""The other Debian suites that the image is built from: one recovery with the Slurm of each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster
from hpctrain.devcluster.docker_image import DEFAULT_SUITE, SUITES
from tests.docker.people import SMALL, Person
from tests.docker.suites import suite_image

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=[suite for suite in SUITES if suite != DEFAULT_SUITE])
def suite_cluster(request: pytest.FixtureRequest) -> Iterator[DockerCluster]:
    """Two nodes of the suite, from an image that is built where there is none."""
    suite = str(request.param)
    suite_image(suite)
    cluster = DockerCluster(f"test-{suite}", suite=suite, say=print)
    try:
        cluster.up(2, build=False)
        yield cluster
    finally:
        cluster.down()


def test_a_killed_rank_costs_a_restart_on_the_same_nodes(suite_cluster: DockerCluster) -> None:
    """A rank of a real job on two hosts is killed; the run goes on from memory and completes."""
    alice = Person(suite_cluster, "alice")
    run = alice.submit("quickstart", {**SMALL, "training.steps": 600})
    run.until(lambda: run.events("step.first"), "the first step")
    struck = alice.run("hpctrain", "drill", "kill-rank", run.name, "--yes", timeout_s=300)
    assert "verdict   kept" in struck.stdout, struck.stdout + struck.stderr  # late, maybe, on a busy machine
    run.finish()
    assert [event["evidence"]["rung"] for event in run.events("recovery.started")] == ["R1"], run.told()
