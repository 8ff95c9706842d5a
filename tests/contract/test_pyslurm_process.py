"""Real pyslurm in its helper process, killed, stopped and led astray: the caller lives, and gets its answer."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from hpctrain.devcluster.state import ClusterInfo
from hpctrain.slurm.adapter import pyslurm_is_installed
from hpctrain.slurm.commands import clean_environment
from hpctrain.slurm.pyslurm_helper import Helper, HelperUnusableError
from hpctrain.slurm.via_cli import SlurmCli
from hpctrain.slurm.via_pyslurm_client import SlurmPyslurm

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not pyslurm_is_installed(), reason="pyslurm is not installed; tests/docker runs this where it is"),
]


def adapter(cluster: ClusterInfo, timeout_s: float = 60.0) -> tuple[SlurmPyslurm, Helper]:
    env = {**os.environ, **cluster.env}
    commands = SlurmCli(env)
    helper = Helper(clean_environment(env), commands.version)
    return SlurmPyslurm(commands, helper, required=True, timeout_s=timeout_s), helper


def test_a_helper_that_is_killed_again_and_again_loses_no_answer(contract_cluster: ClusterInfo) -> None:
    """SIGKILL at any moment, also in the middle of calls: every listing is whole."""
    slurm, helper = adapter(contract_cluster)
    expected = [node.name for node in slurm.nodes()]
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.3):
            if pid := helper.pid:
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        end = time.monotonic() + 60
        while helper.starts < 5:
            assert time.monotonic() < end
            assert [node.name for node in slurm.nodes()] == expected
    finally:
        over.set()
        killer.join()
    helper.close()


def test_a_helper_that_stands_still_is_replaced(contract_cluster: ClusterInfo) -> None:
    """SIGSTOP in the middle of its life: the next call ends in a new one."""
    slurm, helper = adapter(contract_cluster, timeout_s=3.0)
    assert slurm.partitions()
    assert helper.pid is not None
    os.kill(helper.pid, signal.SIGSTOP)

    assert [part.name for part in slurm.partitions()] == ["main"]
    assert slurm.given_up == ""
    helper.close()


@pytest.mark.parametrize("text", [None, "ClusterName=x\nSlurmctldHost=localhost\nPluginDir=/nonexistent\n"])
def test_a_configuration_that_is_none_ends_no_caller(text: str | None, tmp_path: Path) -> None:
    """The library ends the process it is in: that is the helper, and it says why."""
    conf = tmp_path / "slurm.conf"
    if text is not None:
        conf.write_text(text)
    helper = Helper({**os.environ, "SLURM_CONF": str(conf)})
    with pytest.raises(HelperUnusableError, match=r"slurm\.conf|exit status|plugin"):
        helper.hello()
