"""Measurements in, verdicts out (pure).

A value is compared with the stored baseline of its hardware kind, or failing that with the other nodes of this run. What
most nodes have in common is no single node's fault: it is told, and nobody is blamed for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any

from hpctrain.health.deep.baseline import Band, Baseline, Stored, key, of_values
from hpctrain.health.deep.measurement import Measurement, Status


class Verdict(str, Enum):
    """What became of a measurement or a node, from harmless to worst.

    UNJUDGED: measured and, where the check does that, verified; there is nothing to compare the speed with.
    """

    SKIPPED = "skipped"
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    UNJUDGED = "unjudged"
    SLOW = "slow"
    FAILED = "failed"
    CORRUPT = "corrupt"

    @property
    def bad(self) -> bool:
        """Something is wrong."""
        return self in (Verdict.SLOW, Verdict.FAILED, Verdict.CORRUPT)


RANK = {verdict: number for number, verdict in enumerate(Verdict)}
"""Verdict -> how bad it is."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One measurement with its verdict.

    Attributes:
        baseline: the normal value, None where there is none.
        ratio: value / baseline.
        blames: it speaks against this node, and not against something that nodes share.
    """

    measurement: Measurement
    verdict: Verdict
    reason: str
    baseline: Baseline | None = None
    ratio: float | None = None
    blames: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        baseline = asdict(self.baseline) if self.baseline else None
        return {
            **self.measurement.to_json(), "verdict": self.verdict.value, "reason": self.reason, "baseline": baseline,
            "ratio": None if self.ratio is None else round(self.ratio, 4), "blames": self.blames,
        }


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """A node's worst verdict, and why."""

    node: str
    kind: str
    verdict: Verdict
    reason: str
    blamed: bool
    results: tuple[Judged, ...]


def judge(
    measurements: Iterable[Measurement], kinds: Mapping[str, str], stored: Stored, band: Band, profile: str
) -> list[Judged]:
    """The verdict of every measurement, in their order.

    Args:
        kinds: node -> hardware kind; nodes of an unknown kind are compared with each other.
        stored: the site's baselines.
        profile: name of the sizes; part of the key of stored baselines.
    """
    everything = list(measurements)
    fleets: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in everything:
        if one.status is Status.MEASURED and one.value is not None:
            fleets[kinds.get(one.node, ""), one.metric].append(one.value)
    judged = []
    for one in everything:
        kind = kinds.get(one.node, "")
        baseline = stored.get(key(kind, profile), {}).get(one.metric) or of_values(fleets[kind, one.metric])
        judged.append(_judge_one(one, baseline, band))
    return without_common_causes(judged, {one.node for one in everything})


def _judge_one(one: Measurement, baseline: Baseline | None, band: Band) -> Judged:
    if one.status is Status.SKIPPED:
        return Judged(one, Verdict.SKIPPED, one.detail)
    if one.status is Status.CORRUPT:
        return Judged(one, Verdict.CORRUPT, one.detail, blames=True)
    if one.status is not Status.MEASURED or one.value is None:
        return Judged(one, Verdict.FAILED, one.detail or "no value", blames=one.status is not Status.MISSING)
    if baseline is None or baseline.median <= 0:
        return Judged(one, Verdict.UNJUDGED, one.detail or "nothing to compare it with")
    ratio, limit = one.value / baseline.median, baseline.limit(band)
    if one.value >= limit:
        return Judged(one, Verdict.PASS, one.detail, baseline, ratio)
    why = (
        f"{_short(one.value)} {one.unit} is {100 * ratio:.0f} % of the baseline {_short(baseline.median)}"
        f" ({baseline.source}, {baseline.count} values; limit {_short(limit)})"
    )
    return Judged(one, Verdict.SLOW, why, baseline, ratio, blames=True)


def without_common_causes(judged: Sequence[Judged], nodes: Iterable[str]) -> list[Judged]:
    """The same, without blame for what at least two nodes, and more than half of them, show in the same check."""
    total = len(set(nodes))
    affected: dict[tuple[str, Verdict], set[str]] = defaultdict(set)
    for one in judged:
        if one.blames:
            affected[one.measurement.check, one.verdict].add(one.measurement.node)
    common = {mark: found for mark, found in affected.items() if len(found) > 1 and 2 * len(found) > total}
    return [
        replace(one, blames=False, reason=f"{one.reason} (so on {len(found)} of {total} nodes: the cause is common)")
        if one.blames and (found := common.get((one.measurement.check, one.verdict), set()))
        else one
        for one in judged
    ]


def by_node(judged: Iterable[Judged], nodes: Sequence[str], kinds: Mapping[str, str]) -> list[NodeVerdict]:
    """One verdict per node, in the order of ``nodes``: its worst result, one that blames it before one that does not."""
    results: dict[str, list[Judged]] = defaultdict(list)
    for one in judged:
        results[one.measurement.node].append(one)
    found = []
    for node in nodes:
        worst = max(results[node], key=lambda one: (RANK[one.verdict], one.blames), default=None)
        blaming = [one for one in results[node] if one.blames]
        chosen = max(blaming, key=lambda one: RANK[one.verdict], default=worst)
        verdict = chosen.verdict if chosen else Verdict.SKIPPED
        reason = told(chosen) if chosen and verdict.bad else (chosen.reason if chosen and verdict is Verdict.SKIPPED else "")
        found.append(NodeVerdict(node, kinds.get(node, ""), verdict, reason, bool(blaming), tuple(results[node])))
    return found


def told(one: Judged) -> str:
    """A result in one sentence, as a drain reason needs it: metric, thing, verdict, why."""
    where = f" {one.measurement.entity}" if one.measurement.entity else ""
    return f"{one.measurement.metric or one.measurement.check}{where} {one.verdict.value}: {one.reason}"


def baselines_of(judged: Iterable[Judged], kinds: Mapping[str, str], profile: str) -> dict[str, dict[str, Baseline]]:
    """What this run would store: per kind and metric the median of the values that are not slow."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in judged:
        value = one.measurement.value
        if one.verdict in (Verdict.PASS, Verdict.UNJUDGED) and value is not None and kinds.get(one.measurement.node):
            values[key(kinds[one.measurement.node], profile), one.measurement.metric].append(value)
    found: dict[str, dict[str, Baseline]] = defaultdict(dict)
    for (name, metric), numbers in values.items():
        found[name][metric] = of_values(numbers) or Baseline(numbers[0], 0.0, 1)
    return dict(found)


def _short(value: float) -> str:
    return f"{value:.4g}"
