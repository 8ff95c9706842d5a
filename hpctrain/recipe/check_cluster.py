"""What a recipe asks for, against what the cluster has (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hpctrain.recipe.facts import ClusterFacts, NodeGroup, PartitionFacts
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.suggest import nearest
from hpctrain.recipe.units import format_bytes, format_duration, several

_Fits = Callable[[NodeGroup], bool]


def check_cluster(recipe: Recipe, facts: ClusterFacts) -> list[Problem]:
    """One problem per thing that the partition does not have, even when all its nodes are free and in service."""
    part = facts.partition(recipe.resources.partition)
    if part is None:
        return list(_unknown_partition(recipe, facts))
    return [*_time(recipe, part), *_nodes(recipe, part)]


def device_is_gpu(recipe: Recipe, facts: ClusterFacts | None) -> bool:
    """The ranks compute on GPUs: some are asked for, and they are not known to be simulated."""
    if not recipe.resources.gpus_per_node:
        return False
    return facts is None or not facts.simulated_gpus(recipe.resources.partition)


def _unknown_partition(recipe: Recipe, facts: ClusterFacts) -> Iterator[Problem]:
    names = sorted(part.name for part in facts.partitions)
    wanted = recipe.resources.partition
    if wanted is None or not names:
        return
    near = nearest(wanted, names)
    advice = f"did you mean '{near}'?" if near else f"there are: {', '.join(names[:12])}"
    yield Problem(("resources", "partition"), f"this cluster has no partition '{wanted}'; {advice}")


def _time(recipe: Recipe, part: PartitionFacts) -> Iterator[Problem]:
    limit, stop = recipe.resources.time_limit, recipe.resilience.stop_before_limit
    if limit is not None and part.max_time_s is not None and limit > part.max_time_s:
        yield Problem(("resources", "time_limit"), (
            f"{format_duration(limit)} is more than partition '{part.name}' allows, {format_duration(part.max_time_s)}; "
            "a longer run continues by itself in further starts"))
    default = part.default_time_s or part.max_time_s
    if limit is None and default is not None and stop >= default:
        yield Problem(("resilience", "stop_before_limit"), (
            f"stopping {format_duration(stop)} before the limit leaves nothing of partition '{part.name}''s default time, "
            f"{format_duration(default)}; set resources.time_limit"))


def _nodes(recipe: Recipe, part: PartitionFacts) -> Iterator[Problem]:
    """Narrow the nodes down condition by condition, and report the first that leaves too few."""
    resources = recipe.resources
    wanted = resources.nodes + resources.spares
    left = part.groups
    spares = f" + {several(resources.spares, 'spare')}" if resources.spares else ""
    sum_text = several(resources.nodes, "node") + spares
    if not left:
        return
    if _count(left) < wanted:
        yield Problem(("resources", "nodes"), f"{sum_text} asked for, and partition '{part.name}' has {_count(left)}")
        return
    for place, fits, asked, best in _conditions(recipe, part):
        remaining = tuple(group for group in left if fits(group))
        if _count(remaining) < wanted:
            has = f"{_count(remaining)} such nodes of {part.node_count}" if remaining else f"no such node; {best}"
            yield Problem(("resources", place), f"{asked} on {sum_text}, and partition '{part.name}' has {has}")
            return
        left = remaining


def _conditions(recipe: Recipe, part: PartitionFacts) -> Iterator[tuple[str, _Fits, str, str]]:
    want = recipe.resources
    if want.gpus_per_node:
        most = part.max_gpus_per_node
        yield ("gpus_per_node", lambda group: group.gpus >= want.gpus_per_node,
               f"{want.gpus_per_node} GPUs per node asked for",
               f"its nodes have at most {most} GPUs" if most else "its nodes have no GPUs")
    if want.gpu_type:
        types = sorted({group.gpu_type for group in part.groups if group.gpu_type})
        yield ("gpu_type", lambda group: group.gpu_type.lower() == (want.gpu_type or "").lower(),
               f"GPUs of type '{want.gpu_type}' asked for", f"its types are: {', '.join(types) or 'unnamed'}")
    if want.cpus_per_node:
        cpus = max(group.cpus for group in part.groups)
        yield ("cpus_per_node", lambda group: not group.cpus or group.cpus >= (want.cpus_per_node or 0),
               f"{want.cpus_per_node} CPUs per node asked for", f"its nodes have at most {cpus} CPUs")
    if want.memory_per_node:
        memory = max(group.memory_bytes for group in part.groups)
        yield ("memory_per_node", lambda group: not group.memory_bytes or group.memory_bytes >= (want.memory_per_node or 0),
               f"{format_bytes(want.memory_per_node)} per node asked for", f"its nodes have at most {format_bytes(memory)}")


def _count(groups: tuple[NodeGroup, ...]) -> int:
    return sum(group.count for group in groups)
