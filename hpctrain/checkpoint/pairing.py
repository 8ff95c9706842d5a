"""Which node keeps copies for which (pure).

Nodes form pairs that keep each other's copies; the last three of an odd number form a triangle. Two nodes of a pair are as
far from each other in the network as can be had for all, since what is near fails together: a switch, a rack, a row.

Pairs, and not one long ring: when nodes die, copies are lost only if both of a pair do, and there are half as many such
combinations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """A node and the switches above it, outermost first."""

    path: tuple[str, ...]
    node: str


Pair = tuple[_Place, _Place]


def pair(nodes: Iterable[str], domains: Mapping[str, str]) -> dict[str, str]:
    """To which node each one sends its copies; empty when there is only one.

    The same for any order of ``nodes``, so that every node can work it out alone.

    Args:
        domains: failure domain by node: any text. Dots separate levels, the outermost first, as in Slurm's
            ``SLURM_TOPOLOGY_ADDR`` (``core.rack4`` or ``core.rack4.node17``): the earlier two domains part, the further away
            they are. Nodes that are not in it count as one domain.
    """
    places = sorted(_Place(tuple(domains.get(node, "").split(".")), node) for node in set(nodes))
    if len(places) < 2:
        return {}
    pairs, left = _match(places, 0)
    if left is None:
        return _both_ways(pairs)
    first, second = min(pairs, key=lambda two: (_triangle_cost(left, two), two))
    pairs.remove((first, second))
    triangle = {first.node: second.node, second.node: left.node, left.node: first.node}
    return {**_both_ways(pairs), **triangle}


def _match(places: Sequence[_Place], depth: int) -> tuple[list[Pair], _Place | None]:
    """Pair places that agree above ``depth``, parted at ``depth`` as often as possible; one may be left over."""
    groups: dict[str, list[_Place]] = {}
    for place in places:
        groups.setdefault(".".join(place.path[depth:depth + 1]), []).append(place)
    largest = max(groups.values(), key=len, default=[])
    if len(groups) == 1 and len(largest[0].path) > depth:
        return _match(places, depth + 1)
    half = len(places) // 2
    if len(largest) <= len(places) - half or len(groups) == 1:
        # In order of the groups: nobody is half of all places away from its own group.
        ordered = [place for group in sorted(groups.values(), key=lambda group: (-len(group), group)) for place in group]
        left = ordered.pop(0) if len(ordered) % 2 else None
        return list(zip(ordered[:half], ordered[half:], strict=True)), left
    rest, near = list(largest), set(largest)
    others = [place for place in places if place not in near]
    pairs = [_ordered(other, _take(rest, depth + 1)) for other in others]
    inner, left = _match(rest, depth + 1)
    return pairs + inner, left


def _take(places: list[_Place], depth: int) -> _Place:
    """Remove one of those that have most others nearby, so that the rest can be parted well."""
    found: Sequence[_Place] = places
    while any(len(place.path) > depth for place in found):
        groups: dict[str, list[_Place]] = {}
        for place in found:
            groups.setdefault(".".join(place.path[depth:depth + 1]), []).append(place)
        found = max(groups.values(), key=len)
        depth += 1
    taken = found[0]
    places.remove(taken)
    return taken


def _triangle_cost(left: _Place, two: Pair) -> tuple[int, int]:
    edges = [(left, two[0]), (left, two[1]), two]
    return sum(a.path == b.path for a, b in edges), sum(_nearness(a, b) for a, b in edges)


def _nearness(first: _Place, second: _Place) -> int:
    """Levels that two places have in common."""
    count = 0
    for a, b in zip(first.path, second.path, strict=False):
        if a != b:
            break
        count += 1
    return count


def _ordered(first: _Place, second: _Place) -> Pair:
    return min(first, second), max(first, second)


def _both_ways(pairs: Iterable[Pair]) -> dict[str, str]:
    found = {}
    for first, second in pairs:
        found[first.node], found[second.node] = second.node, first.node
    return found
