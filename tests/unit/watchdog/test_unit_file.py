"""The systemd units: complete, quoted, and accepted by systemd's own checker where that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.errors import UsageError
from hpctrain.resources import SLURM_SCRIPTS, shipped_file
from hpctrain.watchdog.unit import NAME, UNITS, render_unit


def unit(python: str = "/usr/bin/python3", *, cluster: bool = False, **env: str) -> str:
    """One unit's text."""
    return render_unit(shipped_file(SLURM_SCRIPTS, UNITS[cluster]).read_text(), python=python, env=env)


@pytest.mark.parametrize("cluster", [False, True])
def test_units_are_complete(cluster: bool) -> None:
    """No place is left open; the cluster that was chosen stays chosen, and no other variable gets in."""
    text = unit(cluster=cluster, SLURM_CONF="/etc/my slurm/100%$x.conf", PATH="/evil")
    assert "@PYTHON@" not in text and "@ENVIRONMENT@" not in text
    assert 'Environment="SLURM_CONF=/etc/my slurm/100%%$x.conf"' in text and "/evil" not in text
    assert 'ExecStart="/opt/a $$b/python" -m hpctrain watchdog run' in unit("/opt/a $b/python", cluster=cluster)


def test_a_unit_cannot_carry_a_line_break() -> None:
    """It could begin another setting."""
    with pytest.raises(UsageError, match="control character"):
        unit(SLURM_CONF="/x\nExecStartPre=/bin/evil")


@pytest.mark.skipif(process.find("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("cluster", [False, True])
def test_systemd_accepts_the_units(tmp_path: Path, cluster: bool) -> None:
    """The checker of systemd finds no unknown setting and no wrong value."""
    path = tmp_path / NAME
    path.write_text(unit(cluster=cluster).replace("User=slurm", "User=root"))
    result = process.run(["systemd-analyze", "verify", str(path)], timeout_s=60)
    mine = [line for line in (result.stderr + result.stdout).splitlines() if NAME in line and "man:" not in line]
    assert mine == []
