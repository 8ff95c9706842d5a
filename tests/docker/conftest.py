"""The dockerised cluster: one for all tests of this directory, four nodes, built from the checkout.

HPCTRAIN_TEST_DOCKER_CLUSTER names one that is up already and stays up, for those who write tests here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hpctrain.devcluster.docker_cluster import DockerCluster

NODES = 4


@pytest.fixture(scope="session")
def docker_cluster() -> Iterator[DockerCluster]:
    """The cluster. Tests share it: leave its nodes in service and healthy, and no job behind."""
    own = os.environ.get("HPCTRAIN_TEST_DOCKER_CLUSTER")
    cluster = DockerCluster(own or f"test-{os.getpid()}", say=print)
    try:
        cluster.up(NODES)
        yield cluster
    finally:
        if not own:
            cluster.down()
