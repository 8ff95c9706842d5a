"""Node lists that we fold are those that Slurm's own commands unfold."""

from __future__ import annotations

import os

import pytest

from hpctrain import process
from hpctrain.devcluster.state import ClusterInfo
from hpctrain.slurm.nodelist import expand, fold

LISTS = [
    ["n1", "n2", "n3", "n10"],
    ["n01", "n02", "n1", "n100"],
    ["gpu-a100-001", "gpu-a100-002", "login", "gpu-h100-1"],
    ["m1x", "m2x", "m1y", "n1"],
    ["r0c0", "r0c1", "r1c0", "r1c1", "r10c3"],
    ["rack1-node1", "rack1-node2", "rack2-node1"],
    ["node.cluster1", "node.cluster2"],
]


@pytest.mark.cluster
@pytest.mark.parametrize("names", LISTS, ids=lambda names: names[0])
def test_slurm_unfolds_what_we_fold(contract_cluster: ClusterInfo, names: list[str]) -> None:
    """``scontrol show hostnames`` and ``hostlist`` agree with us in both directions."""
    env = {**os.environ, **contract_cluster.env}
    shown = process.run(["scontrol", "show", "hostnames", fold(names)], timeout_s=20, env=env)
    assert shown.ok, shown.stderr
    assert sorted(shown.stdout.split()) == sorted(names)
    folded = process.run(["scontrol", "show", "hostlist", ",".join(names)], timeout_s=20, env=env)
    assert sorted(expand(folded.stdout.strip())) == sorted(names)
