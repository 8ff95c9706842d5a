"""One watchdog for everybody: Slurm and the spool alone, nothing of users' directories."""

from __future__ import annotations

import getpass
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.slurm.model import Job, JobState
from hpctrain.watchdog.assemble import Setting, lease_of, state_directory, watchdog
from hpctrain.watchdog.config import WatchdogConfig
from hpctrain.watchdog.publish import publish
from hpctrain.watchdog.status import read_status, status_lines
from tests.unit.watchdog.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Jobs of a user whose name on this machine is the one that runs the tests."""
    world = World(tmp_path)
    world.clock.now = time.time()  # the spool's files have real times
    world.slurm.user = getpass.getuser()
    return world


def setting(world: World, **config: object) -> Setting:
    """A watchdog of the whole cluster over that Slurm."""
    made = replace(WatchdogConfig(), **config)  # type: ignore[arg-type]
    return Setting(world.slurm, made, world.clock, world.path / "w", "head1", "head1.boot", whole_cluster=True)


def listing(path: Path) -> list[str]:
    """All files below a directory, with their sizes."""
    return sorted(f"{file} {file.stat().st_size}" for file in path.rglob("*") if file.is_file())


def test_a_silent_coordinator_is_found_by_the_spool(world: World, tmp_path: Path) -> None:
    """Requeued, counted in the journal, and not a file of the run is touched."""
    spool = tmp_path / "spool"
    spool.mkdir()
    job_id = world.submit()
    publish(spool, job_id, {"time": world.clock.time(), "beat": 1, "host": "n1", "restarts": 0, "state": "run"})
    before = listing(world.run().path)
    chosen = setting(world, spool_dir=str(spool))
    lease = lease_of(chosen)
    assert lease.acquire()
    said: list[str] = []
    with watchdog(chosen, lease, say=said.append) as daemon:
        for _ in range(9):
            daemon.turn()
            world.clock.advance(13)
        found = read_status(chosen)
    assert world.job(job_id).restarts == 1 and listing(world.run().path) == before
    assert any("queue job 1 again" in line for line in said), said
    assert found["running"] and found["holder"]["host"] == "head1.boot"
    assert any("watching on head1.boot" in line for line in status_lines(found, world.clock.time()))
    lease.release()
    assert not read_status(chosen)["running"]


def test_without_a_spool_slurms_word_counts(world: World) -> None:
    """A lost batch host is seen by Slurm's listing alone; a batch script that failed may have meant it."""
    lost, failed = world.submit("run-1", nodes=2), world.submit("run-2", nodes=2)
    world.slurm.node_down("n1")
    world.slurm.finish(failed, exit_code=137)
    chosen = setting(world)
    lease = lease_of(chosen)
    assert lease.acquire()
    with watchdog(chosen, lease, say=lambda _: None) as daemon:
        for _ in range(4):
            daemon.turn()
            world.clock.advance(13)
    assert world.job(lost).restarts == 1
    assert (world.job(failed).restarts, world.job(failed).state) == (0, JobState.FAILED)


def test_a_dry_run_changes_nothing(world: World) -> None:
    """No lease, no journal, no status; what would be done is said once."""
    job_id = world.submit()
    world.slurm.node_down("n1")
    said: list[str] = []
    with watchdog(setting(world), None, say=said.append) as daemon:
        for _ in range(5):
            daemon.turn()
            world.clock.advance(13)
    assert world.job(job_id).restarts == 0 and not (world.path / "w").exists()
    assert len([line for line in said if line.startswith("would queue job 1 again")]) == 1, said


def test_state_directories_keep_clusters_and_rights_apart() -> None:
    """A user's own below the state directory, the cluster's below /var/lib; the site may say otherwise."""
    def where(*, whole: bool = False, which: str = "", **config: str) -> str:
        env = {"HOME": "/home/ada"}
        made = replace(WatchdogConfig(), **config)  # type: ignore[arg-type]
        return str(state_directory(made, env, which=which, whole_cluster=whole))

    assert where() == "/home/ada/.local/state/hpctrain/watchdog/site"
    assert where(which="dev") == "/home/ada/.local/state/hpctrain/watchdog/dev"
    assert where(whole=True) == "/var/lib/hpctrain/watchdog/cluster-site"
    assert where(state_dir="/s") == "/s/site"
    confs = {where(which="/etc/slurm/a.conf"), where(which="/etc/slurm/b.conf"), where()}
    assert len(confs) == 3


def test_jobs_of_another_user_are_not_believed_by_a_file_of_mine(world: World, tmp_path: Path) -> None:
    """Whoever may write into the spool cannot have somebody else's job restarted."""
    spool = tmp_path / "spool"
    spool.mkdir()
    job_id = world.submit()
    publish(spool, job_id, {"time": 1.0, "beat": 1, "host": "n1", "restarts": 0, "state": "run"})
    shown = world.slurm.jobs

    def as_nobody(*arguments: object, **options: object) -> list[Job]:
        return [replace(job, user="nobody") for job in shown(*arguments, **options)]  # type: ignore[arg-type]

    world.slurm.jobs = as_nobody  # type: ignore[method-assign, assignment]
    chosen = setting(world, spool_dir=str(spool))
    lease = lease_of(chosen)
    assert lease.acquire()
    with watchdog(chosen, lease, say=lambda _: None) as daemon:
        for _ in range(6):
            daemon.turn()
            world.clock.advance(13)
    assert shown([job_id])[0].restarts == 0
