"""A simulated GPU node for health checks: the NVML library compiled once, a tree of /proc and /sys per test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpctrain.devcluster.node_files import NodeFiles
from hpctrain.devcluster.nvml_library import build_nvml
from hpctrain.devcluster.simulated_node import NodeKind, health_config
from hpctrain.health.breaker import Permission
from hpctrain.health.config import CONTEXTS, Config, parse_config
from hpctrain.health.reading import Job
from hpctrain.health.run import Look, Outcome, Tools, check_node
from hpctrain.health.supervise import for_node


@dataclass
class SimulatedNode:
    """A node on which checks can be run."""

    name: str
    files: NodeFiles
    directory: Path
    document: dict[str, object]
    state_dir: Path

    @property
    def config(self) -> Config:
        """The site's configuration for this node."""
        config, problems = parse_config(self.document)
        assert [] == problems
        return for_node(config, self.name)

    def check(
        self, context: str = "periodic", job: Job | None = None, *only: str, permission: Permission | None = None
    ) -> Outcome:
        """Run the checks of a context as Slurm would, in this process."""
        granted = permission or Permission(True, "a test")
        return check_node(self.config, [], Look(self.name, context, job, only), Tools(lambda node, reason: granted))


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated NVML library."""
    return build_nvml(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def make_node(nvml_library: Path, tmp_path: Path) -> Callable[..., SimulatedNode]:
    """Make a healthy node of a kind."""

    def make(name: str = "n1", **kind: object) -> SimulatedNode:
        equipped = NodeKind(**kind)  # type: ignore[arg-type]
        files = NodeFiles(tmp_path / "nodes" / name, name, equipped)
        files.create(nvml_library)
        state_dir = tmp_path / "state"
        document = health_config(str(tmp_path / "nodes"), kind=equipped, state_dir=str(state_dir))
        document["budget_s"] = dict.fromkeys(CONTEXTS, 60)  # a busy machine has time
        return SimulatedNode(name, files, tmp_path / "nodes" / name, document, state_dir)

    return make


@pytest.fixture
def node(make_node: Callable[..., SimulatedNode]) -> SimulatedNode:
    """A healthy node with eight GPUs."""
    return make_node()
