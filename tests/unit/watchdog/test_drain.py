"""Nodes that fail jobs again and again are taken out of service: once, within the site's limits, and never over a person."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.health.config import Breaker, Config
from hpctrain.health.policy import JOBS_PREFIX, Limits
from hpctrain.health.remedy_settings import RemedySettings
from hpctrain.ids import JobId, NodeName
from hpctrain.nodes.journal import Journal
from hpctrain.nodes.site import Site
from hpctrain.slurm.model import JobState, Node
from hpctrain.watchdog.assemble import Setting, lease_of, watchdog
from hpctrain.watchdog.config import WatchdogConfig
from hpctrain.watchdog.daemon import Daemon
from tests.unit.watchdog.test_executor import Killed
from tests.unit.watchdog.world import World


class Cluster:
    """A fake cluster whose watchdog may drain; each job runs on two nodes, and loses its first."""

    def __init__(self, path: Path, *, drain_after: int = 2, percent: float = 100.0) -> None:
        self.world = World(path, ("n1", "n2", "n3", "n4", "n5", "n6"))
        self.world.slurm.user = "slurm"
        (path / "slots").mkdir(parents=True)
        config = Config(state_dir=str(path / "state"), breaker=Breaker(directory=str(path / "slots"), slots=4))
        settings = RemedySettings(limits=Limits(drained_percent=percent))
        self.journal = Journal(path / "nodes")
        site = Site(self.world.slurm, config, settings, self.world.clock, self.journal)
        made = replace(WatchdogConfig(), drain_after=drain_after)
        self.setting = Setting(
            self.world.slurm, made, self.world.clock, path / "w", "head1", "head1.boot", whole_cluster=True, site=site,
            settle_s=5.0,
        )
        self.said: list[str] = []
        self.point: Callable[[str], None] = lambda _: None

    def watch(self, turns: int = 12, *, dry: bool = False) -> None:
        """A watchdog of its own for some polls; it may be killed anywhere."""
        lease = None if dry else lease_of(self.setting)
        assert lease is None or lease.acquire()
        try:
            with watchdog(self.setting, lease, say=self.said.append, point=self.point) as daemon:
                self._turns(daemon, turns)
        finally:
            if lease is not None:
                lease.release()

    def _turns(self, daemon: Daemon, turns: int) -> None:
        for _ in range(turns):
            daemon.turn()
            self.world.clock.advance(6)

    def fail(self, name: str) -> JobId:
        """A job whose batch host, n1, stops to answer and comes back after the watchdog has seen it."""
        job_id = self.world.submit(name)
        assert self.world.job(job_id).nodes[0] == "n1"
        self.world.slurm.node_down("n1")
        return job_id

    def node(self, name: str = "n1") -> Node:
        """The node as Slurm shows it."""
        return self.world.slurm.nodes([NodeName(name)])[0]

    def acts(self) -> list[str]:
        """``step kind`` of what is on record about nodes."""
        return [f"{entry.step} {entry.kind}" for entry in self.journal.entries()]

    def end(self, *jobs: JobId) -> None:
        """These are over, and n1 answers again."""
        for job_id in jobs:
            self.world.slurm.cancel(job_id)
        self.world.slurm.node_up("n1")


def two_failures(cluster: Cluster) -> tuple[JobId, JobId]:
    """Two jobs that n1 fails, one after the other."""
    first = cluster.fail("run-1")
    cluster.watch()
    assert cluster.acts() == [] and cluster.world.job(first).restarts == 1
    cluster.end(first)
    return first, cluster.fail("run-2")


def test_a_node_that_failed_two_jobs_is_drained_once(tmp_path: Path) -> None:
    """With a reason of ours that says why; both jobs are queued again, and later polls add nothing."""
    cluster = Cluster(tmp_path)
    _, second = two_failures(cluster)
    cluster.watch()
    cluster.world.slurm.node_up("n1")
    node = cluster.node()
    assert node.drained and node.reason.startswith(f"{JOBS_PREFIX}: 2 failures of jobs are blamed on it; the last was that")
    assert "run-2" in node.reason
    assert cluster.acts() == ["drain intent", "drain done"] and cluster.world.slurm.calls.count("drain") == 1
    assert cluster.world.job(second).restarts == 1
    assert any(line.startswith("done: drain n1") for line in cluster.said), cluster.said


@pytest.mark.parametrize("deadly", [
    "intended", "begun:drain", "before slurm", "after slurm", "acted:drain", "finished:drain",
])
def test_killed_anywhere_it_is_drained_once(tmp_path: Path, deadly: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also between the nodes' journal and Slurm's answer; the job is queued again once."""
    cluster = Cluster(tmp_path)
    _, second = two_failures(cluster)
    died: list[str] = []

    def point(name: str) -> None:
        if name == deadly and not died:
            died.append(name)
            raise Killed

    drain = cluster.world.slurm.drain

    def drained(names: list[NodeName], reason: str) -> None:
        point("before slurm")
        drain(names, reason)
        point("after slurm")

    cluster.point = point
    monkeypatch.setattr(cluster.world.slurm, "drain", drained)
    with pytest.raises(Killed):
        cluster.watch()
    assert died == [deadly]
    cluster.watch()
    cluster.world.slurm.node_up("n1")
    assert cluster.node().reason.startswith(JOBS_PREFIX) and cluster.world.slurm.calls.count("drain") == 1
    assert cluster.acts() == ["drain intent", "drain done"]
    assert cluster.world.slurm.calls.count("requeue") == 2 and cluster.world.job(second).restarts == 1


def test_a_persons_drain_is_left_alone(tmp_path: Path) -> None:
    """Its reason and its owner stay."""
    cluster = Cluster(tmp_path)
    first = cluster.fail("run-1")
    cluster.watch()
    cluster.end(first)
    second = cluster.fail("run-2")
    cluster.world.slurm.user = "oper"
    cluster.world.slurm.drain([NodeName("n1")], "memory test")
    cluster.world.slurm.user = "slurm"
    cluster.watch()
    assert (cluster.node().reason, cluster.node().reason_user) == ("memory test", "oper")
    assert cluster.acts() == [] and cluster.world.job(second).restarts == 1
    assert any(line.startswith("void: drain n1") and "by somebody else: 'memory test'" in line for line in cluster.said)


def test_the_sites_limits_hold(tmp_path: Path) -> None:
    """One node of six is the most that may be drained by us, and one is."""
    cluster = Cluster(tmp_path, percent=10.0)
    cluster.world.slurm.drain([NodeName("n6")], "hpctrain: xid: GPU 3: Xid 79")
    two_failures(cluster)
    cluster.watch()
    assert not cluster.node().drained
    assert any("1 of 6 nodes are drained by us and 1 are permitted" in line for line in cluster.said), cluster.said


def test_without_rights_nothing_is_forced(tmp_path: Path) -> None:
    """Slurm refuses; the refusal is on record, and the job is queued again all the same."""
    cluster = Cluster(tmp_path)
    _, second = two_failures(cluster)
    cluster.world.slurm.operator = False
    cluster.watch()
    assert cluster.acts() == ["drain intent", "drain failed"] and not cluster.node().drained
    assert cluster.world.job(second).restarts == 1


def test_zero_means_never_and_a_dry_run_only_says_it(tmp_path: Path) -> None:
    """Nothing is drained in either case."""
    cluster = Cluster(tmp_path / "a", drain_after=1)
    cluster.fail("run-1")
    cluster.watch(dry=True)
    assert any(line.startswith("would drain n1: 1 failure of a job") for line in cluster.said), cluster.said
    assert not cluster.node().drained and cluster.acts() == []
    never = Cluster(tmp_path / "b", drain_after=0)
    job_id = never.fail("run-1")
    never.watch()
    assert not never.node().drained and never.world.job(job_id).restarts == 1


def test_a_job_is_not_kept_waiting_by_a_drain_that_cannot_be_done_now(tmp_path: Path) -> None:
    """While somebody else acts on nodes the drain waits, and the requeue does not."""
    cluster = Cluster(tmp_path, drain_after=1)
    job_id = cluster.fail("run-1")
    with cluster.journal.locked():
        cluster.watch(turns=4)
        assert cluster.world.job(job_id).restarts == 1 and not cluster.node().drained
    cluster.watch()
    assert cluster.node().drained and cluster.world.job(job_id).state is not JobState.CANCELLED
