"""What an agent sees of its node: kernel log and verdicts, from files that stand for a node's."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hpctrain.agent.node_watch import EVERY_S, NodeWatch, health_config
from hpctrain.detect.node_health import NodeHealthDetector
from hpctrain.detect.settings import NodeSettings
from hpctrain.devcluster.faults import fault_named
from hpctrain.devcluster.simulated_node import log_line
from hpctrain.health.node_state import NodeFiles, NodeState
from hpctrain.testing.fake_clock import FakeClock


class Node:
    """The files of one node, and an agent that watches it."""

    def __init__(self, root: Path, *, uses_gpus: bool = True, **env: str) -> None:
        self.root, self.clock = root, FakeClock(time.time())
        (root / "n1/proc/driver/nvidia/gpus").mkdir(parents=True, exist_ok=True)
        self.log, self.lines = root / "n1/kmsg", 0
        if not self.log.exists():
            self.kernel("Linux version 6.1.0")
        config = root / "health.json"
        config.write_text(json.dumps({"version": 1, "state_dir": str(root / "verdicts"), "roots": {
            "proc": f"{root}/{{node}}/proc", "kernel_log": f"{root}/{{node}}/kmsg"}}))
        self.watch = NodeWatch("n1", {"HPCTRAIN_HEALTH_CONFIG": str(config), **env}, self.clock, uses_gpus=uses_gpus)

    def kernel(self, text: str) -> None:
        """The kernel writes a line."""
        self.lines += 1
        with self.log.open("a") as file:
            file.write(log_line(self.lines, 5.0, text))

    def break_(self, fault: str, gpu: int = 3) -> None:
        """A fault of the private cluster's catalogue."""
        for line in fault_named(fault).make(gpu).log:
            self.kernel(line)

    def verdict(self, level: str, when: float) -> None:
        """The node's health check ends."""
        NodeFiles(self.root / "verdicts", "n1").save(
            NodeState(verdict={"time": when, "level": level, "reason": "hpctrain: gpu_lost GPU 3"}))

    def look(self) -> list[dict[str, Any]]:
        """The next look."""
        self.clock.sleep(EVERY_S)
        found = self.watch.look()
        assert found is not None
        return found


def actions(reports: list[dict[str, Any]], **settings: str) -> list[str]:
    """What the detector makes of them."""
    detector = NodeHealthDetector(NodeSettings(**settings))
    for report in reports:
        detector.report("n1", report, 1.0)
    return [found.action for found in detector.look((), 1.0)]


def test_an_xid_under_the_job_is_seen_in_the_next_look(tmp_path: Path) -> None:
    """A GPU that falls off the bus costs the node; what the log held before the job does not."""
    before = Node(tmp_path)
    before.break_("xid-79")
    node = Node(tmp_path)
    assert node.look() == []
    node.break_("xid-79")

    found = node.look()

    assert [(report["kind"], report["numbers"]) for report in found] == [("xid", [79])]
    assert actions(found) == ["swap"]
    assert actions(found, fault="alert") == ["alert"]
    assert actions(found, fault="off") == []
    assert actions(node.look()) == ["swap"], "a coordinator that took over must hear it too"
    node.watch.close()


def test_a_programs_mistake_is_only_told(tmp_path: Path) -> None:
    """Xid 31 is a bug of the program, and a job without GPUs is not moved for a GPU."""
    node = Node(tmp_path)
    node.kernel("NVRM: Xid (PCI:0000:1b:00): 31, pid=5, name=python, Ch 00000008, MMU Fault: ENGINE GRAPHICS")
    assert actions(node.look()) == ["alert"]

    other = Node(tmp_path, uses_gpus=False)
    other.break_("xid-79")
    assert actions(other.look()) == ["alert"]


def test_another_jobs_gpu_is_not_ours(tmp_path: Path) -> None:
    """Where the driver tells which device a GPU is, only those of the job count."""
    node = Node(tmp_path, SLURM_JOB_GPUS="0,1")
    xid = fault_named("xid-79").make(3).log[0]
    address = xid.split("(PCI:")[1].split(")")[0]
    folder = tmp_path / f"n1/proc/driver/nvidia/gpus/{address}.0"
    folder.mkdir()
    (folder / "information").write_text("Model: \t NVIDIA H100\nDevice Minor: \t 3\n")
    theirs, ours = Node(tmp_path, SLURM_JOB_GPUS="0,1"), Node(tmp_path, SLURM_JOB_GPUS="2,3")
    node.break_("xid-79")

    assert theirs.look() == []
    assert actions(ours.look()) == ["swap"]


def test_other_trouble_of_the_kernel_is_told_once(tmp_path: Path) -> None:
    """Machine checks, lockups and dying disks become alerts; the great majority of lines is nothing."""
    node = Node(tmp_path)
    node.kernel("mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 5: be00000000800400")
    node.kernel("mce: [Hardware Error]: CPU 3: Machine Check: 0 Bank 5: be00000000800400")
    node.kernel("usb 1-1: new high-speed USB device")

    assert actions(node.look()) == ["alert"]


def test_a_verdict_of_the_health_check_counts_from_the_start_of_the_job(tmp_path: Path) -> None:
    """A drain that the periodic check decides under the job costs the node; warnings and old verdicts do not."""
    node = Node(tmp_path)
    node.verdict("drain", node.clock.time() - 100)
    assert node.look() == []
    node.verdict("warn", node.clock.time() + 1)
    assert node.look() == []
    node.verdict("drain", node.clock.time() + 2)

    found = node.look()

    assert [report["kind"] for report in found] == ["verdict"]
    assert actions(found) == ["swap"]


def test_looks_are_rare_and_survive_what_they_cannot_read(tmp_path: Path) -> None:
    """Between two looks lie seconds; a log that is missing, replaced or cut off is read on as soon as that can be."""
    node = Node(tmp_path)
    node.look()
    assert node.watch.look() is None
    node.log.unlink()
    assert node.look() == []
    node.break_("xid-79")
    assert actions([*node.look(), *node.look()]) == ["swap"]
    node.log.write_text("")
    node.look()
    node.break_("xid-48", 1)
    assert [number for report in [*node.look(), *node.look()] for number in report["numbers"]][-1] == 48
    nobody = NodeWatch("n1", {"HPCTRAIN_HEALTH_CONFIG": str(tmp_path / "none")}, FakeClock(), uses_gpus=True)
    nobody.close()


@pytest.mark.parametrize("env", [{}, {"SLURM_CONF": "CLUSTER"}])
def test_a_private_clusters_own_nodes_are_found(tmp_path: Path, env: Mapping[str, str]) -> None:
    """Beside its slurm.conf lies where the simulated kernels are; elsewhere the site's file or the defaults count."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "health").mkdir()
    (tmp_path / "health/health.json").write_text(json.dumps({"roots": {"kernel_log": "/sim/{node}/kmsg"}}))
    named = {name: str(tmp_path / "conf/slurm.conf") for name in env}

    assert health_config(named).roots.kernel_log == ("/sim/{node}/kmsg" if env else "/dev/kmsg")
