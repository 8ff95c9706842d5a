"""Which nodes are paired in which round, and whom the rounds blame (pure).

A slow pair says that one of two nodes, or the path between them, is slow. So every node of a slow pair is paired again,
with a node that has proved itself in a good pair: if it is slow there, too, it is the node; if not, it was the partner. A
node is blamed only after two different pairings, one of them with a proven partner.

Without a stored baseline the pairs are compared with each other: then every node is paired twice, and the measure is the
upper quartile, because a bad node spoils every pair that it is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpctrain.health.deep.baseline import Band, Baseline
from hpctrain.health.deep.judge import Verdict

MOST_ROUNDS = 6
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One pair in one round.

    Attributes:
        value: bandwidth in GB/s; None if the all-reduce failed.
        corrupt: its result was wrong.
        detail: why it failed.
    """

    round: int
    first: str
    second: str
    value: float | None
    corrupt: bool = False
    detail: str = ""

    def other(self, node: str) -> str:
        """The partner."""
        return self.second if node == self.first else self.first


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """What the rounds say of one node; ``value`` is its best."""

    node: str
    verdict: Verdict
    reason: str
    blames: bool = False
    value: float | None = None


def pair_baseline(outcomes: Iterable[Outcome], stored: Baseline | None) -> Baseline | None:
    """What a pair normally reaches: as stored, else in these rounds; None where that cannot be told."""
    values = sorted(one.value for one in outcomes if one.value is not None and not one.corrupt)
    if stored is not None or len(values) < 2:
        return stored
    return Baseline(values[math.ceil(0.75 * len(values)) - 1], 0.0, len(values))


class _Standing:
    """Each node's good and bad partners under one limit."""

    def __init__(self, nodes: Sequence[str], outcomes: Sequence[Outcome], baseline: Baseline | None, band: Band) -> None:
        self.nodes, self.outcomes = list(nodes), list(outcomes)
        self.limit = baseline.limit(band) if baseline else None
        self.met: dict[str, set[str]] = {node: set() for node in nodes}
        self.good: dict[str, set[str]] = {node: set() for node in nodes}
        self.bad: dict[str, set[str]] = {node: set() for node in nodes}
        for one in outcomes:
            result = self.is_good(one)
            for node in (one.first, one.second):
                if node in self.met:
                    self.met[node].add(one.other(node))
                    if result is not None:
                        (self.good if result else self.bad)[node].add(one.other(node))

    def is_good(self, one: Outcome) -> bool | None:
        """None: there is a value, and nothing to compare it with."""
        if one.value is None or one.corrupt:
            return False
        return None if self.limit is None else one.value >= self.limit

    @property
    def cleared(self) -> list[str]:
        return [node for node in self.nodes if self.good[node]]

    def blamed(self, node: str) -> bool:
        partners = self.bad[node]
        return not self.good[node] and len(partners) > 1 and any(self.good.get(partner) for partner in partners)

    def needs_a_round(self, node: str, fewest: int) -> bool:
        return len(self.met[node]) < fewest or (not self.good[node] and not self.blamed(node))


def next_round(
    nodes: Sequence[str], outcomes: Sequence[Outcome], stored: Baseline | None, band: Band, *, most: int = MOST_ROUNDS
) -> list[Pair]:
    """The pairs of the next round; empty when all is told that can be told.

    No pair meets twice. Once there are proven nodes, only they are partners for the others.

    Args:
        nodes: those that still take part, in natural order.
        outcomes: of all rounds so far.
        stored: the site's baseline for pairs, None for none.
    """
    if max((one.round for one in outcomes), default=0) >= most:
        return []
    standing = _Standing(nodes, outcomes, pair_baseline(outcomes, stored), band)
    needy = [node for node in nodes if standing.needs_a_round(node, 1 if stored else 2)]
    if not outcomes:
        half = len(needy) // 2
        return list(zip(needy[:half], needy[half : 2 * half], strict=True))
    # Who has been in the fewest pairs goes first; proven nodes are partners for all, the others only if there are none.
    needy.sort(key=lambda node: (bool(standing.good[node]), len(standing.met[node])))
    return _matched(needy, standing.cleared or needy, standing)


def _matched(needy: Sequence[str], partners: Sequence[str], standing: _Standing) -> list[Pair]:
    pairs: list[Pair] = []
    taken: set[str] = set()
    for node in needy:
        if node in taken:
            continue
        free = (one for one in partners if one != node and one not in taken and one not in standing.met[node])
        partner = next(free, None)
        if partner is not None:
            pairs.append((node, partner))
            taken |= {node, partner}
    return pairs


def conclude(nodes: Sequence[str], outcomes: Sequence[Outcome], baseline: Baseline | None, band: Band) -> list[PairVerdict]:
    """What the rounds say of each node."""
    standing = _Standing(nodes, outcomes, baseline, band)
    return [_conclude(node, standing) for node in nodes]


def _conclude(node: str, standing: _Standing) -> PairVerdict:
    own = [one for one in standing.outcomes if node in (one.first, one.second)]
    best = max((one.value for one in own if one.value is not None), default=None)
    bad, names = standing.bad[node], ", ".join(sorted(standing.bad[node]))
    if not own:
        return PairVerdict(node, Verdict.SKIPPED, "there was no partner for it")
    if standing.good[node]:
        together = sorted(partner for partner in bad if standing.good.get(partner))
        if together:
            why = f"slow only together with {', '.join(together)}, which is fast with others: look at the path between them"
            return PairVerdict(node, Verdict.PASS, why, value=best)
        return PairVerdict(node, Verdict.PASS, f"slow only with {names}, which is to blame" if bad else "", value=best)
    if not bad:
        return PairVerdict(node, Verdict.UNJUDGED, "nothing to compare it with", value=best)
    verdict = _how_bad(node, standing)
    details = "; ".join(dict.fromkeys(one.detail for one in own if one.detail))
    if not details and best is not None and standing.limit is not None:
        details = f"at best {best:.4g} GB/s, limit {standing.limit:.4g}"
    why = f" ({details})" if details else ""
    if standing.blamed(node):
        return PairVerdict(node, verdict, f"{verdict.value} in {len(bad)} different pairings, with {names}{why}", True, best)
    apart = "and no proven partner told them apart"
    return PairVerdict(node, verdict, f"{verdict.value} with {names}, {apart}{why}", value=best)


def _how_bad(node: str, standing: _Standing) -> Verdict:
    own = [one for one in standing.outcomes if node in (one.first, one.second) and standing.is_good(one) is False]
    if any(one.corrupt for one in own):
        return Verdict.CORRUPT
    return Verdict.FAILED if all(one.value is None for one in own) else Verdict.SLOW
