"""Our own failures under a real slurmd: each on a node of its own; the job starts there, the node stays, a trace is left."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpctrain.devcluster.faults import Changes
from tests.cluster.checked_cluster import PATIENCE_S, HealthCluster, checked_cluster, wait_for
from tests.cluster.conftest import require_slurm

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

KILLED = f"""\
#!/bin/sh
{sys.executable} "$@" & child=$!
sleep 0.03
kill -9 $child
wait $child
"""


@pytest.fixture(scope="module")
def cluster(cluster_state_dir: Path) -> Iterator[HealthCluster]:
    """Eight nodes, each of which may have settings of its own."""
    require_slurm()
    with checked_cluster(cluster_state_dir, f"own-{os.getpid()}", nodes=8, interval_s=600) as made:
        own = made.directory / "own"
        own.mkdir()
        with (made.directory / "health.env").open("a") as settings:
            settings.write(f'if [ -r {own}/"$SLURMD_NODENAME" ]; then . {own}/"$SLURMD_NODENAME"; fi\n')
        yield made


def test_our_own_failures_cost_no_job_and_no_node(cluster: HealthCluster) -> None:
    """Configuration, state, driver call, disk, kill, Python, settings: the job runs on its node, and a trace is left."""
    own, state = cluster.directory / "own", cluster.directory / "verdicts"
    state.mkdir(exist_ok=True)
    (own / "torn.json").write_text('{"version": 1, "roots"')
    (own / "killed").write_text(KILLED)
    (own / "killed").chmod(0o700)
    settings = {
        "n1": "HPCTRAIN_HEALTH_CONFIG=/no/such/health.json",
        "n2": f"HPCTRAIN_HEALTH_CONFIG={own}/torn.json",
        "n4": "export HPCTRAIN_HEALTH_BUDGET_S=5",
        "n5": f"export HPCTRAIN_HEALTH_SYSLOG={own}/syslog",
        "n6": f"HPCTRAIN_PYTHON={own}/killed",
        "n7": "HPCTRAIN_PYTHON=/no/such/python",
        "n8": "HPCTRAIN_PYTHON='torn",
    }
    for node, text in settings.items():
        (own / node).write_text(text + "\n")
    (state / "n3.state.json").mkdir()
    cluster.files("n4").inject(Changes(gpus={"init": "!hang"}))
    (state / "n5.events.jsonl").symlink_to("/dev/full")
    traces = {
        "n1": "there is no /no/such/health.json", "n2": "torn.json cannot be read, defaults are used",
        "n3": "cannot keep what was learned", "n4": "did not answer in time", "n6": "ended with status 137",
        "n7": "ended with status 127", "n8": "ended with status 2",
    }  # fmt: skip

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(own / "syslog"))
        syslog.settimeout(PATIENCE_S)
        jobs = {f"n{number}": cluster.submit("hostname", "-w", f"n{number}", "--gres=gpu:2") for number in range(1, 9)}
        for node, job in jobs.items():
            wait_for(lambda node=node, job=job: cluster.look().jobs[job] == ("COMPLETED", node))  # type: ignore[misc]
        told = syslog.recv(2000).decode()

    assert "cannot log the verdict 'ok'" in told
    assert "No space left on device" in told
    for node, words in traces.items():
        path = state / f"{node}.events.jsonl"
        wait_for(lambda path=path, words=words: path.exists() and words in path.read_text())  # type: ignore[misc]
    wait_for(lambda: {("idle", "none")} == set(cluster.look().nodes.values()))
