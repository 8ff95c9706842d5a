"""What becomes known of a node under the running job."""

from __future__ import annotations

from typing import Any

import pytest

from hpctrain.detect.node_health import NodeHealthDetector
from hpctrain.detect.settings import DetectionSettings

XID = {"kind": "xid", "time": 5.0, "entity": "0000:3b:00", "numbers": [79], "action": "reset", "blame": "node",
       "reason": "Xid 79: the GPU has fallen off the bus"}


def detector(**node: Any) -> NodeHealthDetector:
    """With the recipe's settings."""
    return NodeHealthDetector(DetectionSettings.read({"node": node}).node)


def seen(watch: NodeHealthDetector) -> list[tuple[str, tuple[str, ...]]]:
    """Actions and nodes that were found."""
    return [(one.action, one.nodes) for one in watch.look((), 10.0)]


def test_a_lost_gpu_costs_the_node_once() -> None:
    """The same trouble is told once, also when the ranks are started again."""
    watch = detector()
    watch.report("n1", XID, 6.0)
    watch.report("n1", XID, 7.0)

    assert seen(watch) == [("swap", ("n1",))]
    watch.begin(1, 20.0)
    watch.report("n1", XID, 21.0)
    assert seen(watch) == []
    watch.report("n2", XID, 22.0)
    assert seen(watch) == [("swap", ("n2",))]


@pytest.mark.parametrize(("report", "action"), [
    ({**XID, "blame": "user", "action": "restart"}, "alert"),
    ({**XID, "unlisted": True, "action": "inspect"}, "alert"),
    ({"kind": "verdict", "level": "drain", "reason": "hpctrain: gpu_lost GPU 3"}, "swap"),
    ({"kind": "kernel", "entity": "mce", "reason": "machine check"}, "alert"),
    ({**XID, "foreign": True}, "alert"),
    ({"kind": "slurm", "state": "MIXED+DRAIN", "reason": "hpctrain: xid GPU 3"}, "swap"),
    ({"kind": "slurm", "state": "DRAINING", "reason": "new kernel on Monday"}, "alert"),
    ({"kind": "slurm", "state": "DOWN*", "reason": ""}, "swap"),
    ({"kind": "slurm", "state": "ALLOCATED*", "reason": ""}, "swap"),
])
def test_what_each_report_means(report: dict[str, Any], action: str) -> None:
    """A node's fault costs the node; a program's own mistake, a person's drain and what is new to us are told."""
    watch = detector()
    watch.report("n1", report, 6.0)

    assert seen(watch) == [(action, ("n1",))]


@pytest.mark.parametrize("report", [
    {"kind": "verdict", "level": "warn", "reason": "hot"}, {"kind": "slurm", "state": "ALLOCATED"}, {"kind": "new"}, {},
])
def test_what_is_no_trouble(report: dict[str, Any]) -> None:
    """Warnings, healthy states and unknown reports are passed over."""
    watch = detector()
    watch.report("n1", report, 6.0)

    assert seen(watch) == []


def test_the_recipe_decides() -> None:
    """Each kind can be switched off or changed."""
    watch = detector(fault="stop", drained="off")
    watch.report("n1", XID, 6.0)
    watch.report("n1", {"kind": "slurm", "state": "DRAINING", "reason": "mine"}, 6.0)

    assert seen(watch) == [("stop", ("n1",))]
