"""Faults of simulated nodes, from the check that finds them through the remedy that mends them back into service."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.clock import SystemClock
from hpctrain.devcluster.faults import FAULTS
from hpctrain.health import reset
from hpctrain.health.node_state import NodeFiles
from hpctrain.health.policy import Limits
from hpctrain.health.remedy_settings import RemedySettings
from hpctrain.ids import NodeName
from hpctrain.nodes.site import Site
from hpctrain.nodes.tend import Tender
from hpctrain.testing.fake_slurm import FakeSlurm
from tests.unit.health.conftest import SimulatedNode, make_node, node, nvml_library
from tests.unit.nodes.conftest import QuickHooks, QuickJournal

__all__ = ["make_node", "node", "nvml_library"]


class Machine:
    """A simulated node that does what it is asked for, in a Slurm in memory."""

    def __init__(self, node: SimulatedNode, directory: Path) -> None:
        self.node, self.slurm = node, FakeSlurm(["n1", "n2"], clock=SystemClock(), user="root")
        limits = Limits(settle_s=0, recovery_s=0, drained_percent=100)
        settings = RemedySettings(reset=("reset", "{gpu}"), replace=("order",), limits=limits)
        config = replace(node.config, drain_via="controller", settle_s=0.0)
        self.site = Site(self.slurm, config, settings, SystemClock(), QuickJournal(directory / "journal"), QuickHooks())

    def live(self) -> None:
        """Carry out what was asked for, then check."""
        files, state_dir = self.node.files, self.node.state_dir
        request = reset.load(reset.ResetFiles(state_dir, "n1").request)
        if request:
            reset.withdraw(reset.ResetFiles(state_dir, "n1"))
            files.remedy("reset", gpu=int(request["gpu"]))
            if request.get("pci"):
                reset._settle(NodeFiles(state_dir, "n1"), str(request["pci"]), time.time())
            reset._write(reset.ResetFiles(state_dir, "n1").result, {**request, "ok": True, "told": ""})
        if "REBOOT_REQUESTED" in self.slurm.nodes([NodeName("n1")])[0].flags:
            files.remedy("reboot")
            self.slurm.boot("n1")
        self.node.check("periodic")


@pytest.mark.parametrize(
    ("fault", "steps"),
    [
        ("gpu-lost", ["drain", "reboot", "return"]),
        ("driver-mismatch", ["drain", "reboot", "return"]),
        ("nvlink-down", ["drain", "reset GPU", "return"]),
        ("xid-48", ["drain", "reset GPU", "return"]),
        ("xid-119", ["drain", "reset GPU", "return"]),
        ("row-remap-failed", ["drain", "replace", "person"]),
        ("ib-down", ["drain", "person"]),
    ],
)
def test_the_remedy_that_a_check_names_mends_the_fault(
    fault: str, steps: list[str], node: SimulatedNode, tmp_path: Path
) -> None:
    """What a remedy mends returns, also from the kernel log; what it cannot mend is left to a person."""
    machine = Machine(node, tmp_path)
    node.files.break_(FAULTS[fault], 3)
    did: list[str] = []
    for _ in range(12):
        machine.live()
        did += [line.step for line in Tender(machine.site).look() if line.step not in did[-1:]]
        if did[-1:] in (["return"], ["person"]):
            break

    assert did == steps
    assert machine.slurm.nodes([NodeName("n1")])[0].available is (steps[-1] == "return")
