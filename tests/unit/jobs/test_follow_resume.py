"""Following that is cut off anywhere and goes on from its last position: every line once."""

from __future__ import annotations

import json
from io import StringIO

import pytest

from hpctrain.fleet.remote_frames import merge
from hpctrain.jobs.event_list import EventPrinter, follow_events
from hpctrain.jobs.follow import LogRequest, follow
from hpctrain.jobs.logs import Selection
from hpctrain.jobs.position import Place, Position
from hpctrain.jobs.screen import Screen
from hpctrain.jobs.text import iso
from tests.unit.jobs.world import World


@pytest.fixture
def world_dir(tmp_path):
    """Where the run of a test lies."""
    return tmp_path


class CutError(Exception):
    """The connection is gone."""


class Line:
    """A connection that delivers output only together with the position after it, and breaks after some deliveries."""

    def __init__(self, cuts: list[int]) -> None:
        self.cuts, self.at, self.text, self.told = cuts, {}, "", ""
        self._out, self._err, self._left = StringIO(), StringIO(), -1

    def connect(self) -> Screen:
        self._out, self._err = StringIO(), StringIO()
        self._left = self.cuts.pop(0) if self.cuts else -1
        return Screen(self._out, self._err)

    def mark(self, changes: dict) -> None:
        if self._left == 0:
            raise CutError  # what was printed before it is lost with it
        self._left -= 1
        merge(self.at, json.loads(json.dumps({"logs": changes})))
        self.finish()

    def finish(self) -> None:
        self.text += self._out.getvalue()
        self.told += self._err.getvalue()
        self._out.truncate(self._out.seek(0))
        self._err.truncate(self._err.seek(0))


def _job(world: World, line: str) -> None:
    with world.run.dir.job_log.open("a") as file:
        file.write(line + "\n")


def busy(world: World) -> None:
    """Two ranks that print, echoes of rank 0 that come late in the batch step's file, a requeue, new files, the end."""
    world.event("job.started")

    def both(text: str, incarnation: int = 0, echo_after: float = 3.0) -> None:
        when = world.now
        world.say(text, incarnation=incarnation)
        world.say(f"{text} of rank 1", rank=1, node="n2", incarnation=incarnation)
        world.clock.after(echo_after, lambda: _job(world, f"{iso(when)} {text}"))

    for number in range(20):
        world.clock.after(2 + number * 1.3, lambda number=number: both(f"line {number}"))
    world.clock.after(30, lambda: (world.event("job.requeued", "preempted"), world.slurm.requeue(world.job_id)))
    world.clock.after(40, lambda: world.event("job.started"))
    for number in range(20):
        world.clock.after(42 + number * 0.7, lambda number=number: both(f"again {number}", incarnation=1))
    world.clock.after(50, lambda: _job(world, "a message of the agents"))
    world.clock.after(70, lambda: (world.event("job.finished"), world.slurm.finish(world.job_id, 0)))


EXPECTED = sorted(
    [f"[rank 0 n1] {kind} {number}" for kind in ("line", "again") for number in range(20)]
    + [f"[rank 1 n2] {kind} {number} of rank 1" for kind in ("line", "again") for number in range(20)]
    + ["[job] a message of the agents"]
)


@pytest.mark.parametrize("cuts", [[], [0], [1], [2], [5], [9], [0, 0, 0], [3, 1, 4, 1, 5, 2], [1] * 30, [12, 3, 0, 2]])
def test_every_line_is_shown_once_however_often_it_is_cut(world_dir, cuts):
    """Whatever the connection does, lines of all files, echoes left out, arrive once; restarts are announced once."""
    world = World(world_dir)
    busy(world)
    line = Line(list(cuts))
    while True:
        screen = line.connect()
        at = Position.from_json(line.at["logs"]) if "logs" in line.at else None
        try:
            status = follow(
                world.run, world.slurm, world.clock, screen, LogRequest(Selection(all=True)), at=at, mark=line.mark,
            )
            break
        except CutError:
            world.clock.sleep(1.7)
    line.finish()

    assert status.succeeded
    assert EXPECTED == sorted(line.text.splitlines())
    assert line.told.count("the ranks were started again") == 1


def test_tail_counts_at_first_only(world_dir):
    """With a tail a connection that comes back shows what is new, not the newest lines again."""
    world = World(world_dir)
    for number in range(5):
        world.say(f"old {number}")
    line = Line([1])
    world.clock.after(3, lambda: world.say("new 1"))
    world.clock.after(9, lambda: world.say("new 2"))
    world.clock.after(20, lambda: (world.event("job.finished"), world.slurm.finish(world.job_id, 0)))
    request = LogRequest(tail=2)
    with pytest.raises(CutError):
        follow(world.run, world.slurm, world.clock, line.connect(), request, mark=line.mark)
    at = Position.from_json(line.at["logs"])
    follow(world.run, world.slurm, world.clock, line.connect(), request, at=at, mark=line.mark)

    assert line.text.splitlines() == [f"[rank 0 n1] {text}" for text in ("old 3", "old 4", "new 1", "new 2")]


def test_large_backlog_is_told_in_pieces(world_dir, monkeypatch):
    """A finished run with much to show is sent piece by piece, each with its position, and every file gets its turn."""
    monkeypatch.setattr("hpctrain.jobs.follow.MARKED_BYTES", 20_000)
    monkeypatch.setattr("hpctrain.jobs.follow.BLOCK_BYTES", 4096)
    monkeypatch.setattr("hpctrain.jobs.tail.BLOCK_BYTES", 4096)
    world = World(world_dir)
    for rank in range(12):
        world.builder.log(rank, "n1", [(world.now + number, f"line {number} {'x' * 40}") for number in range(300)])
    world.event("job.finished")
    world.slurm.finish(world.job_id, 0)
    line, sizes = Line([3, 7]), []

    def mark(changes: dict) -> None:
        before = len(line.text)
        line.mark(changes)
        sizes.append(len(line.text) - before)

    while True:
        at = Position.from_json(line.at["logs"]) if "logs" in line.at else None
        try:
            follow(world.run, world.slurm, world.clock, line.connect(), LogRequest(Selection(all=True)), at=at, mark=mark)
            break
        except CutError:
            pass

    assert sorted(line.text.splitlines()) == sorted(
        f"[rank {rank} n1] line {number} {'x' * 40}" for rank in range(12) for number in range(300)
    )
    assert max(sizes) < 40_000


def test_replaced_file_is_shown_from_its_start(world_dir):
    """A log that another file has taken the place of, while nobody looked, is not skipped up to the old place."""
    world = World(world_dir)
    world.say("first life, a rather long line")
    line = Line([1])
    world.clock.after(3, lambda: world.say("cut"))
    with pytest.raises(CutError):
        follow(world.run, world.slurm, world.clock, line.connect(), mark=line.mark)
    path = next((world.run.dir.logs / "i000").iterdir())
    fresh = path.with_suffix(".new")
    fresh.write_text(f"{iso(world.now)} second life, which is longer than the first one was\n")
    fresh.replace(path)
    world.event("job.finished")
    world.slurm.finish(world.job_id, 0)
    follow(world.run, world.slurm, world.clock, line.connect(), at=Position.from_json(line.at["logs"]), mark=line.mark)
    line.finish()

    assert line.text.splitlines()[-1] == "[rank 0 n1] second life, which is longer than the first one was"


@pytest.mark.parametrize("value", [None, [], {}, {"files": 3}, {"files": {"a": [1, -2, 0]}, "incarnation": 0, "restarts": 0,
                                                               "announced": "[]"}])
def test_position_that_is_none_is_refused(value):
    """What is no position is a ValueError, not a wrong place."""
    with pytest.raises(ValueError, match=r"not a p"):
        Position.from_json(value)


def test_position_travels_as_json():
    """A position comes back as it went, and of an older one only the difference is sent."""
    first = Position({"logs/a": Place(1, 20, 3.5), "logs/b": Place(2, 0)}, 1, 2, ("running", None, 2))
    second = Position({"logs/a": Place(1, 20, 3.5), "logs/b": Place(2, 9, 4.0)}, 1, 2, ("running", None, 2))
    assert Position.from_json(json.loads(json.dumps(first.to_json()))) == first
    known = first.to_json()
    changes = second.to_json(first)
    merge(known, changes)
    assert list(changes["files"]) == ["logs/b"]
    assert Position.from_json(known) == second


@pytest.mark.parametrize("cuts", [[], [0], [1], [2], [3], [1, 1, 1], [0, 2, 0, 1]])
def test_every_event_is_shown_once_however_often_it_is_cut(world_dir, cuts):
    """Events that were delivered are not shown again, the others are; the day is written over them once."""
    world = World(world_dir)
    for number in range(6):
        world.clock.after(2 + 3 * number, lambda number=number: world.event("checkpoint.saved", f"number {number}"))
    world.clock.after(60, lambda: (world.event("job.finished"), world.slurm.finish(world.job_id, 0)))
    cuts, shown, text = list(cuts), [], []
    while True:
        left, printed = (cuts.pop(0) if cuts else 1000), []

        def mark(digest: str, printed: list[str] = printed) -> None:
            nonlocal left
            if left == 0 and digest:
                raise CutError
            left -= bool(digest)
            shown.extend([digest] if digest else [])
            text.extend(printed)
            printed.clear()

        try:
            follow_events(world.run, world.slurm, world.clock, EventPrinter(world.now), out=printed.append,
                          say=lambda _: None, shown_before=tuple(shown), mark=mark)
            break
        except CutError:
            world.clock.sleep(5)
    lines = "\n".join(text).splitlines()

    assert [line.split("number ")[1] for line in lines if "number " in line] == [str(number) for number in range(6)]
    assert sum(line.startswith("20") for line in lines) == 1
