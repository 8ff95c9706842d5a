"""The other Debian suites that the image is built from: one recovery with the Slurm of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.devcluster.docker_cluster import DockerCluster
from hpctrain.devcluster.docker_image import APT_VARIABLE, SUITES, WHEELS_VARIABLE
from tests.docker.people import SMALL, Person

pytestmark = [pytest.mark.docker, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module", params=[suite for suite in SUITES if suite != "trixie"])
def suite_cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerCluster]:
    """Two nodes of the suite, from an image that is built where there is none."""
    suite = str(request.param)
    with pytest.MonkeyPatch.context() as patch:
        # A testing suite's lists may be older than they say they may be.
        patch.setenv(APT_VARIABLE, 'Acquire::Check-Valid-Until "false";' if suite == "forky" else "")
        if suite == "bookworm" and sys.version_info[:2] == (3, 11):
            # Its own torch is too old, and the image's pip would take one with accelerator libraries.
            wheels = tmp_path_factory.mktemp("wheels")
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), "torch==2.13.0"]
            assert process.run(pip, timeout_s=600).ok
            patch.setenv(WHEELS_VARIABLE, str(Path(wheels)))
        cluster = DockerCluster(f"test-{suite}", suite=suite, say=print)
        try:
            cluster.up(2)
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
