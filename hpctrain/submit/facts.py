"""What the cluster is like, asked through the Slurm port (service)."""

from __future__ import annotations

from hpctrain.recipe.facts import ClusterFacts
from hpctrain.slurm.port import Slurm


def cluster_facts(slurm: Slurm) -> ClusterFacts:
    """Nodes, partitions and the cluster's name, in one query each.

    Raises:
        ControllerDownError: the controller does not answer.
    """
    return ClusterFacts.build(slurm.nodes(), slurm.partitions(), slurm.cluster_name())
