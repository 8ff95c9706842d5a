"""What a run of deep checks found, from what its nodes wrote down (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpctrain.health.deep.baseline import Baseline, Stored, key
from hpctrain.health.deep.judge import (
    RANK,
    Judged,
    NodeVerdict,
    Verdict,
    baselines_of,
    by_node,
    judge,
    without_common_causes,
)
from hpctrain.health.deep.measurement import CHECKS, PAIR_METRIC, PAIRWISE, Measurement, Status
from hpctrain.health.deep.pairing import Outcome, PairVerdict, conclude, pair_baseline
from hpctrain.health.deep.plan import DeepPlan

_UNIT = "GB/s"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended.

    Attributes:
        started: it ran at all.
        cut_short: somebody cancelled it, or Slurm preempted it: what is missing is nobody's fault.
        why: the end in words.
    """

    started: bool
    cut_short: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is on record of one job.

    Attributes:
        records: node -> what it said, in order.
        pairs: outcomes of pairs, in order.
    """

    nodes: tuple[str, ...]
    end: JobEnd
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    pairs: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The judged result of a run.

    Attributes:
        run: its directory.
        time: when it was made, in seconds since the epoch.
        hardware: node -> what it is made of.
        rounds: outcomes of pairs.
        new_baselines: what this run would store.
    """

    run: str
    time: float
    profile: str
    nodes: tuple[NodeVerdict, ...]
    hardware: Mapping[str, Mapping[str, Any]]
    rounds: tuple[Outcome, ...]
    new_baselines: Stored

    @property
    def worst(self) -> Verdict:
        """The worst verdict of any node."""
        return max((node.verdict for node in self.nodes), key=lambda one: RANK[one], default=Verdict.SKIPPED)

    @property
    def blamed(self) -> list[NodeVerdict]:
        """The nodes that something speaks against."""
        return [node for node in self.nodes if node.blamed]

    @property
    def exit_code(self) -> int:
        """0: nothing is wrong. 1: something is slow. 2: something failed or was corrupt."""
        return {Verdict.SLOW: 1, Verdict.FAILED: 2, Verdict.CORRUPT: 2}.get(self.worst, 0)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "run": self.run, "time": self.time, "profile": self.profile, "verdict": self.worst.value,
            "blamed": [node.node for node in self.blamed],
            "nodes": [_node_json(one, self.hardware.get(one.node, {})) for one in self.nodes],
            "rounds": [asdict(one) for one in self.rounds],
        }  # fmt: skip


def _node_json(one: NodeVerdict, hardware: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node": one.node, "kind": one.kind, "verdict": one.verdict.value, "blamed": one.blamed, "reason": one.reason,
        "hardware": {name: value for name, value in hardware.items() if name != "kind"},
        "results": [result.to_json() for result in one.results],
    }  # fmt: skip


def make_report(
    plan: DeepPlan, evidence: Sequence[Evidence], skipped: Mapping[str, str], *, run: str, time: float
) -> Report:
    """Judge what is on record; what is missing is a result, too.

    Args:
        skipped: node -> why nothing was submitted for it.
    """
    hardware: dict[str, Mapping[str, Any]] = {}
    measurements: list[Measurement] = []
    for one in evidence:
        for node in one.nodes:
            records = one.records.get(node, ())
            hardware.update({node: record for record in records if record.get("kind") == "hardware"})  # noqa: B035 - one
            measurements += _complete(plan, node, one)
    kinds = {node: f"{record['name']} x {record['count']}" for node, record in hardware.items()}
    judged = judge(measurements, kinds, plan.stored, plan.band, plan.profile)
    new = baselines_of(judged, kinds, plan.profile)
    rounds: list[Outcome] = []
    if plan.pairwise:
        pairs: list[Judged] = []
        for one in evidence:
            found = _pairs(plan, one, kinds)
            rounds += found.outcomes
            pairs += found.judged
            for name, baseline in found.baselines.items():
                new.setdefault(name, {})[PAIR_METRIC] = baseline
        judged += without_common_causes(pairs, [node for one in evidence for node in one.nodes])
    for node, why in skipped.items():
        judged.append(Judged(Measurement(node, "node", "", Status.SKIPPED, detail=why), Verdict.SKIPPED, why))
    names = [node for one in evidence for node in one.nodes] + list(skipped)
    return Report(run, time, plan.profile, tuple(by_node(judged, names, kinds)), hardware, tuple(rounds), new)


def _complete(plan: DeepPlan, node: str, job: Evidence) -> list[Measurement]:
    """What the node measured; if it did not come to its end, one more result that says so and names what is missing."""
    records = job.records.get(node, ())
    found: list[Measurement] = []
    for record in records:
        if record.get("kind") == "measurement":
            try:
                one = Measurement.from_json(record)
            except ValueError:
                continue
            if one.node == node and one.check in CHECKS:
                found.append(one)
    if _ended(job, node):
        return found
    absent = [name for name in plan.checks if name not in {one.check for one in found}]
    absent += [PAIRWISE] if plan.pairwise else []
    status = Status.MISSING if job.end.cut_short else Status.LOST
    status = status if job.end.started else Status.SKIPPED
    why = job.end.why if records or not job.end.started else f"the node said nothing; {job.end.why}"
    missing = f"; without a result: {', '.join(absent)}" if absent and job.end.started else ""
    return [*found, Measurement(node, "node", "", status, detail=why + missing)]


def _ended(job: Evidence, node: str) -> bool:
    """The node did all it was to do."""
    return any(record.get("kind") == "end" for record in job.records.get(node, ()))


@dataclass(frozen=True, slots=True)
class _Pairs:
    """What the rounds of one job say."""

    judged: list[Judged]
    outcomes: list[Outcome]
    baselines: dict[str, Baseline]


def _pairs(plan: DeepPlan, job: Evidence, kinds: Mapping[str, str]) -> _Pairs:
    """Kind by kind, since nodes are paired with their own kind only."""
    read = [(one, kind) for one, kind in map(_outcome, job.pairs) if one is not None]
    found = _Pairs([], [one for one, _ in read], {})
    if not job.end.started:
        skipped = [PairVerdict(node, Verdict.SKIPPED, job.end.why) for node in job.nodes]
        found.judged.extend(_pair_judged(one, None) for one in skipped)
        return found
    for kind in sorted({kinds.get(node, "") for node in job.nodes}):
        own = [one for one, its_kind in read if its_kind == kind]
        name = key(kind, plan.profile)
        baseline = pair_baseline(own, plan.stored.get(name, {}).get(PAIR_METRIC))
        verdicts = conclude([node for node in job.nodes if kinds.get(node, "") == kind], own, baseline, plan.band)
        # A node that was lost has a result that says so: that it met nobody is no news.
        verdicts = [one for one in verdicts if one.verdict is not Verdict.SKIPPED or _ended(job, one.node)]
        found.judged.extend(_pair_judged(one, baseline) for one in verdicts)
        fresh = pair_baseline(own, None)
        if kind and fresh is not None:
            found.baselines[name] = fresh
    return found


def _pair_judged(one: PairVerdict, baseline: Baseline | None) -> Judged:
    statuses = {Verdict.SKIPPED: Status.SKIPPED, Verdict.FAILED: Status.FAILED, Verdict.CORRUPT: Status.CORRUPT}
    status = statuses.get(one.verdict, Status.MEASURED)
    what = Measurement(one.node, PAIRWISE, PAIR_METRIC, status, one.value, _UNIT, detail=one.reason)
    ratio = one.value / baseline.median if one.value is not None and baseline is not None and baseline.median else None
    return Judged(what, one.verdict, one.reason, baseline, ratio, one.blames)


def _outcome(record: Mapping[str, Any]) -> tuple[Outcome | None, str]:
    try:
        value = None if record["value"] is None else float(record["value"])
        pair = (str(record["first"]), str(record["second"]))
        one = Outcome(int(record["round"]), *pair, value, bool(record["corrupt"]), str(record["detail"]))
        return one, str(record["kind"])
    except (KeyError, TypeError, ValueError):
        return None, ""
