"""What a recipe is checked against: the cluster, as far as it is known (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpctrain.slurm.model import Node, Partition

SIMULATED_GPU_TYPE = "sim"
"""Slurm's GPU type on the private cluster: counted and allocated by Slurm, but there is no GPU behind it."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes that are alike.

    Attributes:
        count: how many there are, in or out of service.
        memory_bytes: configured memory of each, 0 if Slurm does not know.
        gpu_type: as in ``gpu:h100:8``; "" for none or unnamed.
    """

    count: int
    cpus: int = 0
    memory_bytes: int = 0
    gpus: int = 0
    gpu_type: str = ""

    @property
    def simulated(self) -> bool:
        """Its GPUs are only numbers: ranks there compute on the CPU."""
        return self.gpus > 0 and self.gpu_type == SIMULATED_GPU_TYPE


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition. Times in seconds, None for no limit."""

    name: str
    groups: tuple[NodeGroup, ...] = ()
    is_default: bool = False
    up: bool = True
    max_time_s: int | None = None
    default_time_s: int | None = None

    @property
    def node_count(self) -> int:
        """Nodes of the partition."""
        return sum(group.count for group in self.groups)

    @property
    def max_gpus_per_node(self) -> int:
        """GPUs of its best equipped node."""
        return max((group.gpus for group in self.groups), default=0)


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What the controller says about the cluster."""

    partitions: tuple[PartitionFacts, ...] = ()
    name: str = ""

    @classmethod
    def build(cls, nodes: Iterable[Node], partitions: Iterable[Partition], name: str = "") -> ClusterFacts:
        """Make the facts from one listing of nodes and one of partitions."""
        by_name = {node.name: node for node in nodes}
        found = []
        for part in partitions:
            members = [by_name[member] for member in part.nodes if member in by_name]
            found.append(PartitionFacts(
                name=part.name, groups=_groups(members), is_default=part.is_default, up=part.up,
                max_time_s=part.max_time_s, default_time_s=part.default_time_s,
            ))
        return cls(tuple(found), name)

    def partition(self, name: str | None) -> PartitionFacts | None:
        """The named partition; for None the default one, or the only one."""
        if name is not None:
            return next((part for part in self.partitions if part.name == name), None)
        default = next((part for part in self.partitions if part.is_default), None)
        return default or (self.partitions[0] if len(self.partitions) == 1 else None)

    def simulated_gpus(self, partition: str | None = None) -> bool:
        """All GPUs of the partition are simulated (and there is at least one)."""
        part = self.partition(partition)
        groups = [group for group in part.groups if group.gpus] if part else []
        return bool(groups) and all(group.simulated for group in groups)


def _groups(nodes: Iterable[Node]) -> tuple[NodeGroup, ...]:
    counts: dict[tuple[int, int, int, str], int] = {}
    for node in nodes:
        key = (node.cpus, node.memory_mib * 2**20, node.gpus, node.gpu_type)
        counts[key] = counts.get(key, 0) + 1
    return tuple(NodeGroup(count, *key) for key, count in counts.items())
