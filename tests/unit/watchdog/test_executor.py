"""Exactly once: a watchdog that dies at any place between two steps, and one that was overtaken."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.errors import ControllerDownError, HpctrainError, StorageError
from hpctrain.slurm.model import JobState
from hpctrain.watchdog import attempts
from hpctrain.watchdog.budget import Attempt, Cause
from hpctrain.watchdog.journal import FencedError, Journal
from hpctrain.watchdog.model import Command
from tests.unit.watchdog.world import World


class Killed(BaseException):
    """Stands for kill -9: nothing of ours runs afterwards."""


POINTS = [
    "intended",
    *[f"{step}:{deed}" for deed in ("attempt", "record", "notify") for step in ("begun", "acted", "finished")],
    *[f"{step}:{deed}" for deed in ("requeuehold", "exclude", "release", "start_now")
      for step in ("begun", "checked", "acted", "finished")],
]  # fmt: skip


@pytest.mark.parametrize("deadly", POINTS)
def test_killed_anywhere_nothing_is_done_twice_or_forgotten(tmp_path: Path, deadly: str) -> None:
    """One requeue, one failure counted, one event of each kind, the exclusion made and the job running again."""
    world = World(tmp_path)
    job_id = world.submit(exclude_after=1)
    world.slurm.node_down("n1")
    died = []

    def point(name: str) -> None:
        if name == deadly and not died:
            died.append(name)
            raise Killed

    world.point = point
    requeues = 0
    for turn in range(30):
        try:
            world.daemon.turn()
        except Killed:
            world.journal.close()
            world.start(token=turn + 2)
        world.clock.advance(5)
        if world.job(job_id).restarts and not requeues:
            requeues = 1
            world.slurm.node_up("n1")
    job = world.job(job_id)
    assert died == [deadly]
    assert (job.state, job.restarts, job.nodes, job.excluded_nodes) == (JobState.RUNNING, 1, ("n2", "n3"), ("n1",))
    assert world.slurm.calls.count("requeue") == 1
    assert [attempt["cause"] for attempt in world.attempts()] == ["node"]
    assert [event.kind for event in world.events()] == ["fault.detected", "node.excluded", "recovery.started"]
    assert 1 <= len(world.told.commands) <= 2, "notifications come at least once"
    assert len({command.key for command in world.told.commands}) == 1
    assert not [deed for deed in world.deeds() if not deed.endswith((":done", ":void"))]


def steps(*deeds: str) -> list[str]:
    """The places at which a watchdog is killed that carries these out."""
    return [f"{step}:{deed}" for deed in deeds for step in ("begun", "checked", "acted", "finished")]


def killed_at(world: World, deadly: str, turns: int) -> list[str]:
    """Turns of five seconds, in which the watchdog is killed once, at that place; where it was."""
    died: list[str] = []

    def point(name: str) -> None:
        if name == deadly and not died:
            died.append(name)
            raise Killed

    world.point = point
    for turn in range(turns):
        try:
            world.daemon.turn()
        except Killed:
            world.journal.close()
            world.start(token=100 + turn)
        world.clock.advance(5)
    return died


@pytest.mark.parametrize("deadly", steps("requeue", "start_now"))
def test_killed_anywhere_a_job_without_a_coordinator_is_queued_again_once(tmp_path: Path, deadly: str) -> None:
    """Without nodes to exclude there is no hold: a plain requeue, and the delay is lifted."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    assert killed_at(world, deadly, 22) == [deadly]
    assert (world.job(job_id).state, world.job(job_id).restarts) == (JobState.RUNNING, 1)
    assert world.slurm.calls.count("requeue") == 1 and len(world.attempts()) == 1
    assert [event.kind for event in world.events()] == ["fault.detected", "recovery.started"]


@pytest.mark.parametrize("deadly", steps("cancel"))
def test_killed_anywhere_a_run_that_must_stop_is_stopped_once(tmp_path: Path, deadly: str) -> None:
    """The verdict is written once, and the job cancelled once."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    attempts.append(world.run(), Attempt(world.clock.time(), Cause.RANK, "R4", 0, 5, True, job=job_id, restarts=0))
    assert killed_at(world, deadly, 22) == [deadly]
    assert world.job(job_id).state is JobState.CANCELLED and world.slurm.calls.count("cancel") == 1
    assert [event.kind for event in world.events()] == ["job.failed"] and len(world.attempts()) == 1


@pytest.mark.parametrize("deadly", steps("include"))
def test_killed_anywhere_an_exclusion_ends_with_its_time(tmp_path: Path, deadly: str) -> None:
    """The node is given back, at the latest when the job waits the next time, and nothing else is changed about it."""
    world = World(tmp_path)
    job_id = world.submit(exclude_after=1, exclude_for_s=500, max_restarts_without_progress=9)
    world.slurm.node_down("n1")
    world.turns(3)
    world.slurm.node_up("n1")
    world.turns(6)
    assert world.job(job_id).excluded_nodes == ("n1",)
    world.clock.advance(600)
    world.slurm.requeue(job_id)
    assert killed_at(world, deadly, 12) == [deadly]
    world.slurm.requeue(job_id)
    world.turns(2)
    assert (world.job(job_id).excluded_nodes, world.job(job_id).restarts) == ((), 3)


def test_a_request_under_way_is_not_repeated(tmp_path: Path) -> None:
    """Killed while scontrol runs on: the next watchdog waits longer than that may take before it asks again."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id)
    world.turns(7)

    def die(name: str) -> None:
        if name == "checked:requeue":
            raise Killed

    world.point = die
    with pytest.raises(Killed):
        world.turns(9)
    world.point = lambda _: None
    world.start(token=2)
    world.turns(2, step_s=5)
    assert world.job(job_id).restarts == 0
    world.slurm.requeue(job_id)  # the old request arrives
    world.turns(30, step_s=5)
    assert world.job(job_id).restarts == 1 and world.job(job_id).state is JobState.RUNNING


def test_an_overtaken_watchdog_does_nothing(tmp_path: Path) -> None:
    """A later token has written to the journal: the earlier one's intent is refused before any effect."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    world.turns(1)
    Journal(world.journal.path, token=7).close()
    with pytest.raises(FencedError):
        world.turns(3)
    assert world.job(job_id).restarts == 0
    with pytest.raises(FencedError):
        Journal(world.journal.path, token=3)


def test_what_cannot_be_counted_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the run directory: no requeue until the failure is written down."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    count = world.files.attempt
    monkeypatch.setattr(world.files, "attempt", _fail(StorageError("no space")))
    world.turns(6)
    assert world.job(job_id).restarts == 0
    monkeypatch.setattr(world.files, "attempt", count)
    world.turns(5)
    assert world.job(job_id).restarts == 1 and len(world.attempts()) == 1


def test_a_controller_that_dies_before_the_deed_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer to the requeue: it stays open and is done when the controller is back."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    requeue = world.slurm.requeue
    monkeypatch.setattr(world.slurm, "requeue", _fail(ControllerDownError("no answer")))
    world.turns(5)
    assert "requeue:intended" in world.deeds()
    monkeypatch.setattr(world.slurm, "requeue", requeue)
    world.turns(6)
    assert world.job(job_id).restarts == 1


def test_a_coordinator_that_came_back_keeps_its_job(tmp_path: Path) -> None:
    """The intent of a dead watchdog is void when the job is in good hands again, and the job may be judged anew later."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id, ago_s=500)

    def die(name: str) -> None:
        if name == "intended":
            raise Killed

    world.point = die
    with pytest.raises(Killed):
        world.turns(4)
    world.point = lambda _: None
    world.clock.advance(3600)
    world.beat(job_id, beat=99)
    world.start(token=2)
    world.turns(3)
    assert world.job(job_id).restarts == 0 and "requeue:void" in world.deeds()
    world.turns(12)
    assert world.job(job_id).restarts == 1


def test_a_notification_that_fails_is_tried_again_and_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five tries; the job does not wait for them."""
    world = World(tmp_path)
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    tried: list[Command] = []

    def send(command: Command) -> str:
        tried.append(command)
        raise HpctrainError("mail is down")

    monkeypatch.setattr(world.told, "send", send)
    world.turns(20)
    assert len(tried) == 5 and world.job(job_id).restarts == 1 and "notify:failed" in world.deeds()


def _fail(error: Exception):  # type: ignore[no-untyped-def]
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_who_is_overtaken_at_the_last_moment_has_nothing_to_do(tmp_path: Path) -> None:
    """Another watchdog has the job queued again between our look and our request: ours is void, and not a failure."""
    world = World(tmp_path)
    job_id = world.submit()
    world.slurm.node_down("n1")
    overtaken: list[str] = []

    def point(name: str) -> None:
        if name.startswith("checked:requeue") and not overtaken:
            overtaken.append(name)
            world.slurm.requeue(job_id)

    world.point = point
    world.turns(6)
    assert overtaken
    assert world.job(job_id).restarts == 1
    assert [deed for deed in world.deeds() if deed.startswith("requeue")] == [f"{overtaken[0].split(':')[1]}:void"]
    assert not [deed for deed in world.deeds() if deed.endswith(":failed")]
