"""Remedies of simulated nodes: what a reset, a reboot and new hardware mend, and what they leave."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from hpctrain.devcluster.faults import FAULTS
from hpctrain.devcluster.healing import MENDED_BY, REMEDIES, injected, left_after
from hpctrain.devcluster.node_files import NodeFiles
from hpctrain.devcluster.simulated_node import NodeKind


@pytest.fixture
def files(tmp_path: Path) -> NodeFiles:
    """A healthy node; its library is an empty file."""
    (tmp_path / "library").touch()
    made = NodeFiles(tmp_path / "n1", "n1", NodeKind(gpus=2))
    made.create(tmp_path / "library")
    return made


def text(tmp_path: Path, path: str) -> str:
    return (tmp_path / "n1" / path).read_text()


def test_every_entry_names_a_fault_and_a_remedy() -> None:
    """The table of remedies knows only faults of the catalogue."""
    assert set(MENDED_BY) <= set(FAULTS)
    assert set(MENDED_BY.values()) <= set(REMEDIES)


def test_a_stronger_remedy_mends_what_a_milder_one_mends() -> None:
    """A reset mends one GPU's lighter faults, a reboot all but hardware, a replacement everything."""
    faults = [injected("ecc-uncorrected", 0), injected("ecc-uncorrected", 1), injected("xid-79", 0), injected("hot", 0)]
    stubborn = injected("xid-79", 1, "replace")

    assert left_after("reset", faults, 0) == tuple(faults[1:])
    assert left_after("reboot", [*faults, stubborn]) == (faults[3], stubborn)
    assert left_after("replace", [*faults, stubborn]) == ()


def test_a_reboot_starts_kernel_and_uptime_anew(files: NodeFiles, tmp_path: Path) -> None:
    """New boot id, uptime near zero, and the log only holds what still happens after the boot."""
    before, log = text(tmp_path, "proc/sys/kernel/random/boot_id"), text(tmp_path, "kmsg")
    assert float(text(tmp_path, "proc/uptime").split()[0]) > 86_400
    files.break_(FAULTS["xid-79"], 0)
    files.break_(FAULTS["xid-119"], 1, "replace")

    files.remedy("reboot")

    assert text(tmp_path, "proc/sys/kernel/random/boot_id") != before
    assert float(text(tmp_path, "proc/uptime").split()[0]) < 60
    assert abs(float(text(tmp_path, "booted")) - time.time()) < 60
    assert text(tmp_path, "kmsg").startswith(log)
    assert "119, pid" in text(tmp_path, "kmsg")
    assert "79, pid" not in text(tmp_path, "kmsg")


def test_a_reset_mends_one_gpu_and_keeps_boot_and_log(files: NodeFiles, tmp_path: Path) -> None:
    """The other GPU's fault stays, and what the log said stays said."""
    before, healthy = text(tmp_path, "proc/sys/kernel/random/boot_id"), text(tmp_path, "gpus.state")
    files.break_(FAULTS["xid-48"], 0)
    broken = text(tmp_path, "gpus.state")
    files.break_(FAULTS["ecc-uncorrected"], 1)

    files.remedy("reset", gpu=1)
    assert text(tmp_path, "gpus.state") == broken
    files.remedy("reset", gpu=0)

    assert text(tmp_path, "gpus.state") == healthy
    assert text(tmp_path, "proc/sys/kernel/random/boot_id") == before
    assert text(tmp_path, "kmsg").count("48, pid") == 1
    assert files.faults() == ()
