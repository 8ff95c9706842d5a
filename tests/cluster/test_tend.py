"""Nodes are mended under a real slurmd, by a 'hpctrain nodes tend' that is killed again and again."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.devcluster.faults import FAULTS
from hpctrain.nodes.journal import Journal
from hpctrain.nodes.record import Entry
from tests.cluster.checked_cluster import HealthCluster, checked_cluster, wait_for
from tests.cluster.conftest import require_slurm

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 8
PATIENCE_S = 300.0


class Tending:
    """The command as a process of its own, and what is on record."""

    def __init__(self, cluster: HealthCluster) -> None:
        self.cluster, self.journal = cluster, Journal(cluster.directory / "remedies")
        variables = {"HPCTRAIN_HEALTH_CONFIG": str(cluster.directory / "health.json")}
        self._env = {**os.environ, **cluster.environment, **variables}

    def command(self, *arguments: str) -> str:
        """Output of ``hpctrain nodes ARGUMENT...``, which must succeed."""
        result = process.run([sys.executable, "-m", "hpctrain", "nodes", *arguments], timeout_s=120, env=self._env)
        assert result.ok, result.stderr
        return result.stdout

    def killed_while_it_acts(self) -> None:
        """Run it until the journal has grown, and kill it there."""
        size, child = self._size(), self._start()
        until = time.monotonic() + 60
        while self._size() == size and time.monotonic() < until:
            time.sleep(0.001)
        process.kill_group(child)
        child.wait()

    def until(self, what: Any) -> None:
        """Run it until something has come about."""
        child = self._start()
        try:
            wait_for(what, seconds=PATIENCE_S)
        finally:
            process.kill_group(child)
            child.wait()

    def ends(self, node: str) -> list[str]:
        """``step kind`` of a node's acts that are over."""
        over = [entry for entry in self._of(node) if entry.kind in ("done", "failed", "dropped", "seen")]
        return [f"{entry.step} {entry.kind}" for entry in over]

    def last_rule(self, node: str) -> str:
        """What was last decided about a node."""
        return next((entry.rule for entry in reversed(self._of(node)) if entry.kind == "next"), "")

    def _of(self, node: str) -> list[Entry]:
        return [entry for entry in self.journal.entries() if entry.node == node]

    def _size(self) -> int:
        return self.journal.path.stat().st_size if self.journal.path.exists() else 0

    def _start(self) -> Any:
        argv = [sys.executable, "-m", "hpctrain", "nodes", "tend", "--interval", "1"]
        return process.start(argv, env=self._env, stdout=process.DEVNULL, stderr=process.DEVNULL)


@pytest.fixture
def tending(cluster_state_dir: Path) -> Iterator[Tending]:
    """Five nodes that settle and recover in seconds; the last is a spare, and replacements are written into a file."""
    require_slurm()
    with checked_cluster(cluster_state_dir, f"tend-{os.getpid()}", 5) as cluster:
        remedies = json.loads((cluster.directory / "health.json").read_text())["remedies"]
        script = 'echo "$1 $2" >>"$0"'
        hook = ["/bin/sh", "-c", script, str(cluster.directory / "replaced"), "{node}", "{reason}"]
        limits = {"settle_s": 2, "recovery_s": 2, "drained_percent": 100, "lemon_score": 100}
        # What other tests do to this machine's disk and mounts is not these nodes' fault.
        off = dict.fromkeys(("disk_space", "mounts"), "off")
        remedies |= {"replace": hook, "limits": limits}
        cluster.configure(settle_s=2, modes=off, drain_via="controller", remedies=remedies)
        yield Tending(cluster)


def test_nodes_are_mended_once_whoever_is_killed(tending: Tending) -> None:
    """Drained by their verdicts, rebooted, reset and replaced as these ask, checked, and back; a person's node stays."""
    cluster = tending.cluster
    tending.command("spares", "add", "n5")
    cluster.slurm("scontrol", "update", "NodeName=n3", "State=DRAIN", "Reason=operator: memory test")
    cluster.files("n1").break_(FAULTS["xid-79"], 1)
    cluster.files("n2").break_(FAULTS["ecc-uncorrected"], 2)
    cluster.files("n3").break_(FAULTS["xid-79"], 3)
    cluster.files("n4").break_(FAULTS["xid-79"], 4, "replace")
    boots = {node: cluster.files(node).boot_id() for node in ("n1", "n2", "n3")}
    starts = {node: starts_of(cluster, node) for node in ("n1", "n2", "n3", "n4")}
    for _ in range(KILLS):
        tending.killed_while_it_acts()
    tending.until(lambda: cluster.node("n1")[0] == cluster.node("n2")[0] == "idle" and "replace done" in tending.ends("n4"))
    tending.until(lambda: tending.last_rule("n4") == "replaced in vain")

    assert tending.ends("n1") == ["drain done", "reboot done", "return done"]
    assert tending.ends("n2") == ["drain done", "reset GPU done", "return done"]
    assert tending.ends("n3") == []
    assert tending.ends("n4") == ["drain done", "reboot done", "reboot done", "spare done", "replace done"]
    assert cluster.files("n1").boot_id() != boots["n1"]
    assert cluster.files("n2").boot_id() == boots["n2"]
    assert {node: starts_of(cluster, node) - starts[node] for node in starts} == {"n1": 1, "n2": 0, "n3": 0, "n4": 2}
    assert ("drained", "operator: memory test") == cluster.node("n3")
    assert cluster.files("n3").boot_id() == boots["n3"]
    (line,) = (cluster.directory / "replaced").read_text().splitlines()
    assert line.startswith("n4 hpctrain: xid: GPU 4: Xid 79")
    assert "no spares" in tending.command("spares", "list")
    assert "reservation" not in cluster.slurm("scontrol", "show", "reservation").lower().replace("no reservations", "")
    assert not cluster.node("n4")[0].startswith("idle")
    shown = json.loads(tending.command("show", "n4", "-o", "json"))
    assert shown["node"]["next"]["step"] == "person"
    assert [one["step"] for one in shown["node"]["history"] if one["kind"] == "done"][-1] == "replace"


def starts_of(cluster: HealthCluster, node: str) -> int:
    """How often the node's slurmd has started."""
    log = cluster.conf.parent.parent / "log" / f"{node}.log"
    return sum("started" in line and "slurmd version" in line for line in log.read_text().splitlines())
