"""What a simulated node pretends under load: set, kept over a reboot as broken hardware is, ended by new hardware."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.devcluster.faults import DEEP_FAULTS, FAULTS, fault_named
from hpctrain.devcluster.node_files import NodeFiles
from hpctrain.devcluster.simulated_node import NodeKind
from hpctrain.health.deep.measurement import CHECKS, PAIRWISE
from hpctrain.health.deep.simulated import VARIABLE, Pretended, pretended


@pytest.mark.parametrize("name", DEEP_FAULTS)
def test_a_fault_is_pretended_until_the_hardware_is_replaced(name: str, tmp_path: Path) -> None:
    """Every fault reaches the deep checks, and names one that exists."""
    (tmp_path / "library").touch()
    files, env = NodeFiles(tmp_path / "n1", "n1", NodeKind(gpus=1)), {VARIABLE: str(tmp_path)}
    files.create(tmp_path / "library")
    assert Pretended() == pretended("n1", env)

    files.break_(fault_named(name), 0)
    assert Pretended() != (broken := pretended("n1", env))
    assert broken.corrupt <= {*CHECKS, PAIRWISE}
    files.remedy("reboot")
    assert broken == pretended("n1", env)
    files.remedy("replace")
    assert Pretended() == pretended("n1", env)
    assert not set(DEEP_FAULTS) & set(FAULTS)
