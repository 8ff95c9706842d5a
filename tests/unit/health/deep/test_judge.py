"""Values in, verdicts out: bands, baselines, common causes."""

from __future__ import annotations

import pytest

from hpctrain.health.deep.baseline import Band, Baseline, key, merged, of_values, parse
from hpctrain.health.deep.judge import Judged, Verdict, baselines_of, by_node, judge
from hpctrain.health.deep.measurement import CHECKS, Measurement, Status

KIND = "NVIDIA H200 x 8"


def measured(node: str, value: float, metric: str = "gemm.float32", entity: str = "") -> Measurement:
    """A value of the check that the metric belongs to."""
    check = metric.partition(".")[0]
    return Measurement(node, check, metric, Status.MEASURED, value, CHECKS[check].metrics[metric], entity)


def judged(values: dict[str, float], stored: Baseline | None = None, band: Band | None = None) -> dict[str, Judged]:
    """Verdicts by node."""
    baselines = {key(KIND, "standard"): {"gemm.float32": stored}} if stored else {}
    everything = [measured(node, value) for node, value in values.items()]
    found = judge(everything, dict.fromkeys(values, KIND), baselines, band or Band(), "standard")
    return {one.measurement.node: one for one in found}


def test_a_node_below_the_band_is_slow_and_one_within_is_not() -> None:
    """Five percent of the fleet's median, and no vendor's figure."""
    found = judged({"n1": 100, "n2": 101, "n3": 95.1, "n4": 94.0})

    assert [Verdict.PASS, Verdict.PASS, Verdict.PASS, Verdict.SLOW] == [found[f"n{n}"].verdict for n in (1, 2, 3, 4)]
    assert found["n4"].blames
    assert 0.94 == found["n4"].ratio
    assert "94 GB/s" not in found["n4"].reason
    assert "94 TFLOP/s is 94 % of the baseline 100 (this run, 4 values; limit 95)" == found["n4"].reason


def test_one_of_two_nodes_is_told_from_the_other() -> None:
    """The better of two is the measure."""
    found = judged({"n1": 100, "n2": 60})

    assert (Verdict.PASS, Verdict.SLOW) == (found["n1"].verdict, found["n2"].verdict)


def test_a_single_node_is_not_judged_without_a_stored_baseline() -> None:
    """There is nothing to compare it with, and that is no pass."""
    assert Verdict.UNJUDGED is judged({"n1": 100})["n1"].verdict
    assert Verdict.SLOW is judged({"n1": 100}, Baseline(120, 0, 8, "stored"))["n1"].verdict


def test_a_fleet_that_spreads_gets_a_wider_band() -> None:
    """Three spreads where these are more than five percent, and never more than half of the median."""
    values = {"n1": 100.0, "n2": 92.0, "n3": 108.0, "n4": 104.0, "n5": 96.0, "n6": 88.0}
    assert {Verdict.PASS} == {one.verdict for one in judged(values).values()}

    wild = of_values([10, 100, 100, 300, 500])
    assert wild is not None
    assert wild.median / 2 == wild.limit(Band())


def test_few_values_have_no_spread() -> None:
    """Of four nodes one bad one would widen the band until it passed itself."""
    assert Verdict.SLOW is judged({"n1": 100, "n2": 100, "n3": 60, "n4": 5})["n4"].verdict


def test_another_kind_of_hardware_is_not_compared() -> None:
    """Slower GPUs are not broken ones."""
    values = [measured(node, value) for node, value in (("a1", 100), ("a2", 100), ("b1", 50), ("b2", 50))]
    found = judge(values, {"a1": "A", "a2": "A", "b1": "B", "b2": "B"}, {}, Band(), "standard")

    assert {Verdict.PASS} == {one.verdict for one in found}


def test_what_most_nodes_share_blames_nobody() -> None:
    """After a driver update the whole fleet is below the stored baseline: told, and nobody is blamed."""
    found = judged({"n1": 80, "n2": 81, "n3": 79, "n4": 100}, Baseline(100, 0, 8, "stored"))

    assert [Verdict.SLOW] * 3 == [found[f"n{n}"].verdict for n in (1, 2, 3)]
    assert not any(one.blames for one in found.values())
    assert "on 3 of 4 nodes: the cause is common" in found["n1"].reason


@pytest.mark.parametrize(
    ("status", "verdict", "blames"),
    [
        (Status.CORRUPT, Verdict.CORRUPT, True),
        (Status.FAILED, Verdict.FAILED, True),
        (Status.LOST, Verdict.FAILED, True),
        (Status.MISSING, Verdict.FAILED, False),
        (Status.SKIPPED, Verdict.SKIPPED, False),
    ],
)
def test_what_has_no_value_keeps_its_reason(status: Status, verdict: Verdict, blames: bool) -> None:
    """A node is blamed for what it did, not for what there was no time for."""
    one = Measurement("n1", "gemm", "gemm.float32", status, detail="why")
    (found,) = judge([one], {"n1": KIND}, {}, Band(), "standard")

    assert (verdict, "why", blames) == (found.verdict, found.reason, blames)


def test_a_node_has_its_worst_verdict() -> None:
    """Corrupt is worse than slow, and one GPU is enough."""
    values = [
        measured("n1", 100, entity="GPU 0"), measured("n1", 50, entity="GPU 1"), measured("n2", 100, entity="GPU 0"),
        Measurement("n1", "memory", "memory.copy", Status.CORRUPT, entity="GPU 3", detail="3 bytes differ"),
    ]  # fmt: skip
    nodes = by_node(judge(values, {"n1": KIND, "n2": KIND}, {}, Band(), "standard"), ["n1", "n2"], {"n1": KIND})

    assert (Verdict.CORRUPT, True, "memory.copy GPU 3 corrupt: 3 bytes differ") == (
        nodes[0].verdict, nodes[0].blamed, nodes[0].reason,
    )
    assert (Verdict.PASS, False) == (nodes[1].verdict, nodes[1].blamed)


def test_baselines_are_made_of_good_values_only() -> None:
    """A slow node does not lower what is stored, and stored metrics of other runs stay."""
    kinds = {f"n{n}": KIND for n in range(4)}
    values = [measured(f"n{n}", value) for n, value in enumerate((100, 102, 98, 20))]
    new = baselines_of(judge(values, kinds, {}, Band(), "standard"), kinds, "standard")
    document = merged({}, new, time=1.0, run="here")
    again = merged(document, {key(KIND, "standard"): {"disk.read": Baseline(5, 0, 2)}}, time=2.0, run="there")

    stored = parse(again)[key(KIND, "standard")]
    assert (100, 3, "stored") == (stored["gemm.float32"].median, stored["gemm.float32"].count, stored["gemm.float32"].source)
    assert 5 == stored["disk.read"].median


@pytest.mark.parametrize("document", [[], {}, {"version": 2, "kinds": {}}, {"version": 1, "kinds": {"a": 3}}, None])
def test_a_foreign_document_is_refused(document: object) -> None:
    """A damaged file of baselines is an error and not an empty one."""
    with pytest.raises(ValueError, match=r"version|document"):
        parse(document)


def test_a_measurement_survives_json() -> None:
    """What a node writes is what the judge reads."""
    one = measured("n1", 1.5, entity="GPU 0")

    assert one == Measurement.from_json(one.to_json())
    with pytest.raises(ValueError, match="not a measurement"):
        Measurement.from_json({"node": "n1", "status": "great"})
