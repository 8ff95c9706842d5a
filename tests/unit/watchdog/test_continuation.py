"""A run that goes on as another job while Slurm waits for a dead node: never two of them, whatever happens between."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import Job, JobState
from tests.unit.watchdog.test_executor import Killed
from tests.unit.watchdog.world import World


class Stuck(World):
    """A world in which a job that was queued again stays COMPLETING because of a dead node n2."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.stuck: JobId | None = None
        self.plain = self.slurm.jobs
        self.slurm.jobs = self.shown  # type: ignore[method-assign, assignment]

    def shown(self, ids: Iterable[JobId] | None = None, **options: bool) -> list[Job]:
        """What squeue shows: of a job that waits an end in the future, of a cancelled one an end in the past."""
        return [self._hidden(job) if job.job_id == self.stuck else job for job in self.plain(ids, **options)]

    def _hidden(self, job: Job) -> Job:
        over = job.state.finished
        end = self.clock.time() + (-1 if over else 3600)
        flags, nodes = frozenset({"COMPLETING"}), (NodeName("n2"),)
        return replace(job, state=JobState.RUNNING, flags=flags, nodes=nodes, end_time=end, reason="")

    def fail(self) -> JobId:
        """A job on n1 and n2 loses n2 and queues itself again."""
        job_id = self.submit()
        self.beat(job_id)
        self.turns(1)
        self.slurm.node_down("n2")
        self.slurm.requeue(job_id)
        self.stuck = job_id
        return job_id

    def both(self) -> list[Job]:
        """All jobs as they really are."""
        return self.plain()


def test_the_run_goes_on_without_the_dead_node(tmp_path: Path) -> None:
    """After the wait: another job, the record names it, the old one is cancelled, people are told; once."""
    world = Stuck(tmp_path)
    old = world.fail()
    world.turns(5)
    assert len(world.both()) == 1, "a node that is only slow is waited for"
    world.turns(6)
    first, second = world.both()
    assert (first.job_id, first.state) == (old, JobState.CANCELLED)
    assert second.state is JobState.RUNNING and second.excluded_nodes == ("n2",) and "n2" not in second.nodes
    record = json.loads(world.run().record.read_text())
    assert record["job_id"] == second.job_id and record["earlier_jobs"] == [old]
    assert [command.data["kind"] for command in world.told.commands] == ["continue"]
    assert [event.kind for event in world.events()] == ["job.requeued"]
    world.stuck = None
    world.beat(second.job_id)
    world.turns(5)
    assert len(world.both()) == 2 and world.attempts() == []


@pytest.mark.parametrize("deadly", ["intended", "begun:continue", "submitted", "recorded", "fenced", "acted:continue"])
def test_killed_anywhere_there_is_one_continuation(tmp_path: Path, deadly: str) -> None:
    """And it is never released before the old job is cancelled."""
    world = Stuck(tmp_path)
    old = world.fail()
    died = []

    def point(name: str) -> None:
        running = [job.job_id for job in world.both() if job.state is JobState.RUNNING and job.job_id != old]
        assert not running or world.plain([old])[0].state is JobState.CANCELLED
        if name == deadly and not died:
            died.append(name)
            raise Killed

    world.point = point
    for turn in range(20):
        try:
            world.daemon.turn()
        except Killed:
            world.journal.close()
            world.start(token=turn + 2)
        world.clock.advance(10)
    states = [job.state for job in world.both()]
    assert died == [deadly] and states == [JobState.CANCELLED, JobState.RUNNING]


def test_a_cancelled_job_is_not_continued(tmp_path: Path) -> None:
    """It looks the same but for its end, which lies in the past."""
    world = Stuck(tmp_path)
    world.slurm.cancel(world.fail())
    world.turns(12)
    assert [job.state for job in world.both()] == [JobState.CANCELLED]


def test_slurm_may_be_quicker(tmp_path: Path) -> None:
    """The old job waits to start after all: the held continuation is taken away, and the record names the old one again."""
    world = Stuck(tmp_path)
    old = world.fail()

    def point(name: str) -> None:
        if name == "recorded" and world.stuck is not None:
            world.stuck = None
            raise Killed

    world.point = point
    with pytest.raises(Killed):
        world.turns(12)
    world.start(token=2)
    world.turns(8)
    first, second = world.both()
    assert (first.state, second.state) == (JobState.RUNNING, JobState.CANCELLED)
    assert json.loads(world.run().record.read_text())["job_id"] == old
    assert world.told.commands == []


def test_without_other_nodes_the_job_waits_as_slurm_does(tmp_path: Path) -> None:
    """Another job would wait, too."""
    world = Stuck(tmp_path)
    world.slurm.node_down("n3")
    world.slurm.node_down("n4")
    world.fail()
    world.turns(15)
    assert len(world.both()) == 1
