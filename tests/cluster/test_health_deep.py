"""Deep checks as real jobs on a private cluster: one node is slow, one computes wrongly, and only these are blamed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.devcluster.cluster import Clusters
from hpctrain.devcluster.faults import Changes, fault_named
from hpctrain.devcluster.health_setup import enable_health, node_files
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.simulated_node import DEEP
from hpctrain.devcluster.state import layout_of, load_spec
from tests.cluster.conftest import require_slurm

pytestmark = pytest.mark.cluster

# A node 150 times slower and a band of 93 %: tenfold noise on either side changes no verdict.
SLOW = json.dumps({"slow_factor": 150, "corrupt": []})
OPTIONS = ("--profile", "smoke", "--band", "93", "--only", "gemm", "-o", "json")


@pytest.fixture(scope="module")
def cluster(cluster_state_dir: Path) -> Iterator[tuple[Layout, Spec]]:
    """Four nodes whose faults are simulated."""
    require_slurm()
    clusters = Clusters(cluster_state_dir / "clusters", say=print)
    name = f"deep-{os.getpid()}"
    try:
        info = clusters.up(name, nodes=4)
        spec = load_spec(info.state_dir)
        assert spec is not None
        layout = layout_of(spec, cluster_state_dir / "clusters")
        enable_health(layout, spec, interval_s=3600)
        yield layout, spec
    finally:
        clusters.down(name)


def run(cluster: tuple[Layout, Spec], runs: Path, *arguments: str) -> process.Result:
    """The command on all nodes."""
    layout, spec = cluster
    env = {**os.environ, "HPCTRAIN_CLUSTER": spec.name, "HPCTRAIN_RUNS_DIR": str(runs), "HOME": str(runs)}
    env["HPCTRAIN_STATE_DIR"] = str(layout.state_dir.parent.parent)
    command = [sys.executable, "-m", "hpctrain", "health", "deep", "--nodes", "n[1-4]", *OPTIONS, *arguments]
    return process.run(command, timeout_s=240, env=env)


def deep(cluster: tuple[Layout, Spec], runs: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit status, document and messages of the command."""
    result = run(cluster, runs, *arguments)
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout), result.stderr


def node_state(cluster: tuple[Layout, Spec], node: str) -> str:
    """State and reason of a node."""
    env = {"PATH": os.environ["PATH"], "SLURM_CONF": str(cluster[0].slurm_conf)}
    return process.run(["sinfo", "-h", "-n", node, "-o", "%T %E"], timeout_s=60, env=env).stdout.strip()


def test_a_slow_node_and_a_corrupting_node_are_found(cluster: tuple[Layout, Spec], tmp_path: Path) -> None:
    """Pairs isolate the slow one from its partners, verified products find the other, and both are drained."""
    layout, spec = cluster
    node_files(layout, spec, "n3").inject(Changes(tree={DEEP: SLOW}))
    node_files(layout, spec, "n2").inject(fault_named("corrupt-gemm").make(0))
    page = tmp_path / "report.html"

    status, document, messages = deep(cluster, tmp_path, "--pairwise", "--drain", "--html", str(page))

    found = {node["node"]: node for node in document["deep"]["nodes"]}
    told = json.dumps(document, indent=1) + messages
    assert ["n2", "n3"] == document["deep"]["blamed"], told
    assert (2, "corrupt", "slow") == (status, found["n2"]["verdict"], found["n3"]["verdict"]), told
    assert "Freivalds" in found["n2"]["reason"]
    (pair,) = [one for one in found["n3"]["results"] if one["metric"] == "allreduce.pair"]
    assert ("slow", True) == (pair["verdict"], pair["blames"]), told
    assert "slow in 2 different pairings" in pair["reason"]
    assert "n2" in page.read_text()
    assert "hpctrain: deep gemm.float32 corrupt" in node_state(cluster, "n2")
    assert "hpctrain: deep " in node_state(cluster, "n3")
    assert {"n2", "n3"} == set(document["deep"]["drained"])
    assert "drain" not in node_state(cluster, "n1")

    _, again, _ = deep(cluster, tmp_path, "--collect", document["deep"]["run"])
    assert (["n2", "n3"], {}) == (again["deep"]["blamed"], again["deep"]["drained"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--only", "gem"), "there is no deep check 'gem'"),
        (("--nodes", "n[1-"), "is not a node list"),
        (("--nodes", "n9"), "n9"),
        (("--partition", "a b"), "--partition 'a b'"),
        (("--baseline", "/nonexistent/b.json"), "there is no file of baselines"),
        (("--collect", "/"), "no deep checks were submitted from here"),
    ],
)
def test_mistakes_are_told(cluster: tuple[Layout, Spec], tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    """One error, before anything is submitted."""
    result = run(cluster, tmp_path, *arguments)

    assert result.returncode in (2, 4, 5)
    assert told in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "deep-checks").exists()


def test_a_dry_run_submits_nothing(cluster: tuple[Layout, Spec], tmp_path: Path) -> None:
    """It shows the scripts, and no directory is made."""
    status, document, _ = deep(cluster, tmp_path, "--dry-run")

    assert 0 == status
    scripts = [job["script"] for job in document["plan"]["jobs"]]
    assert all("#SBATCH --exclusive" in script for script in scripts)
    assert not (tmp_path / "deep-checks").exists()
