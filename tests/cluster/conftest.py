"""A real private Slurm for tests: one per test session, 4 nodes x 8 simulated GPUs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.devcluster.cluster import Clusters
from hpctrain.devcluster.daemons import PACKAGES
from hpctrain.devcluster.state import ClusterInfo

STATE_DIR = "HPCTRAIN_STATE_DIR"


def require_slurm() -> None:
    """Skip, with the reason, where Slurm or munge is not installed; run_tests.sh installs both."""
    missing = [program for program in PACKAGES if process.find(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def cluster_state_dir() -> Iterator[Path]:
    """A state directory with a short path, so that clusters of tests and of people never meet."""
    path = Path(tempfile.mkdtemp(prefix="hpct-", dir="/tmp"))
    before = os.environ.get(STATE_DIR)
    os.environ[STATE_DIR] = str(path)
    yield path
    if before is None:
        os.environ.pop(STATE_DIR)
    else:
        os.environ[STATE_DIR] = before
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def private_cluster(cluster_state_dir: Path) -> Iterator[ClusterInfo]:
    """The running cluster. Tests share it: leave its nodes in service and no job behind."""
    require_slurm()
    clusters = Clusters(cluster_state_dir / "clusters", say=print)
    name = f"test-{os.getpid()}"
    try:
        yield clusters.up(name)
    finally:
        clusters.down(name)


@pytest.fixture
def cluster_env(private_cluster: ClusterInfo, cluster_state_dir: Path) -> dict[str, str]:
    """Complete environment for subprocesses that use the cluster, without variables of an enclosing job."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM", "SQUEUE", "SBATCH", "SRUN"))}
    return {**kept, STATE_DIR: str(cluster_state_dir), **private_cluster.env}
