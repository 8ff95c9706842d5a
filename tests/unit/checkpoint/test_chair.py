"""What rank 0 makes of the ranks' reports, and what is told of it: without a keeper, on a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from hpctrain.testing.fake_clock import FakeClock

pytest.importorskip("torch")

from hpctrain.checkpoint.agenda import Agenda, Turn
from hpctrain.checkpoint.manager_chair import Chair, Outcome
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.orders import LATE_S, Order, Report, read_report, settle
from hpctrain.checkpoint.schedule import TierSchedule
from hpctrain.checkpoint.schedule_cost import FailureRate, RunHistory
from hpctrain.checkpoint.tier_ram_saves import Staged

NAME = CheckpointName(0, 4)
DONE, WORKING, WAITING = Report("done", size_bytes=10, seconds=2.0), Report("working"), Report("waiting")


class Meetings:
    """Two ranks that copy into memory after every step, with shared and local due every four."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.told: list[str] = []
        agenda = Agenda([Turn("ram", TierSchedule(every_steps=1)), Turn("shared", TierSchedule(every_steps=4), insists=True),
                         Turn("local", TierSchedule(every_steps=4), insists=True)], FailureRate(), 0.01,
                        now_s=self.clock.now)
        self.chair = Chair(agenda, ("shared", "local"), ("shared",), clock=self.clock, tell=self._tell)
        self.chair.restart(0, None)

    def _tell(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        self.told.append(f"{kind.removeprefix('checkpoint.')} {evidence['tier']} {step}")

    def meet(self, step: int, *reports: Mapping[str, Report], copies: tuple[Staged, ...] = (Staged(), Staged())) -> Outcome:
        self.clock.advance(1)
        self.chair.arrive(step, RunHistory())
        told = reports or ({}, {})
        return self.chair.conclude(step, list(zip(copies, told, strict=True)), CheckpointName(0, step), {})


def both(report: Report) -> tuple[Mapping[str, Report], ...]:
    return ({"shared": report, "local": report}, {"shared": report, "local": report})


def test_tiers_are_ordered_when_they_are_due() -> None:
    """At a multiple both tiers are ordered, each attempt with a number of its own; nothing is told before it is done."""
    meetings = Meetings()
    assert [{}, {}, {}] == [dict(meetings.meet(step).orders) for step in (1, 2, 3)]
    assert {"shared": (1, "every 4 steps"), "local": (2, "every 4 steps")} == meetings.meet(4).orders
    assert [] == meetings.told


def test_save_is_told_when_every_rank_is_done() -> None:
    """An order that one rank still works on is not over; when all are done it is told once, with the step as durable."""
    meetings = Meetings()
    meetings.meet(4)
    assert meetings.meet(5, *({"shared": DONE, "local": DONE}, {"shared": WORKING, "local": DONE})).durable is None
    assert ["saved local 4"] == meetings.told
    assert 4 == meetings.meet(6, *both(DONE)).durable
    meetings.meet(7, *both(DONE))
    assert ["saved local 4", "saved shared 4"] == meetings.told


def test_step_that_a_slow_tier_misses_is_copied_into_memory() -> None:
    """At a multiple at which the last save is still being written, ranks copy into memory all the same."""
    clock = FakeClock()
    agenda = Agenda([Turn("ram", TierSchedule(every_s=1000)), Turn("shared", TierSchedule(every_steps=4), insists=True)],
                    FailureRate(), 0.01, now_s=clock.now)
    chair = Chair(agenda, ("shared",), ("shared",), clock=clock, tell=lambda *_: None)
    chair.restart(0, None)
    assert chair.plan(4).memory
    chair.conclude(4, [(Staged(), {})], NAME, {})
    assert not chair.plan(7).memory
    assert 8 >= chair.adjourn(7).step
    assert chair.plan(8).memory
    assert {} == chair.conclude(8, [(Staged(), {"shared": WORKING})], CheckpointName(0, 8), {}).orders


def test_what_is_whole_stays_until_the_next_is() -> None:
    """A tier of nodes must keep what all ranks have there: first what was restored, then what the last order made."""
    meetings = Meetings()
    restored = CheckpointName(0, 2)
    meetings.chair.restart(2, None, restored)
    assert restored == meetings.meet(4).keep["local"]
    assert restored == meetings.meet(5, *({"local": DONE}, {"local": WORKING})).keep["local"]
    assert NAME == meetings.meet(6, *({"local": DONE}, {"local": DONE})).keep["local"]


def test_busy_tier_is_not_ordered_again() -> None:
    """While an order is under way its tier gets no other one, the tier beside it does."""
    meetings = Meetings()
    meetings.meet(4)
    reports = ({"shared": WORKING, "local": DONE}, {"shared": WORKING, "local": DONE})
    assert {"local"} == set(meetings.meet(8, *reports).orders)


def test_failed_order_is_told_once_and_so_is_its_recovery() -> None:
    """A tier that fails again and again is degraded once; the first save that works ends that."""
    meetings = Meetings()
    bad = Report("done", "No space left on device")
    meetings.meet(4)
    for step in (8, 12, 16):
        assert {"shared", "local"} == set(meetings.meet(step, *({"shared": bad, "local": DONE}, both(DONE)[1])).orders)
    meetings.meet(20, *both(DONE))
    assert ["degraded shared 4", "recovered shared 16"] == [line for line in meetings.told if not line.startswith("saved")]
    assert "saved shared 16" == meetings.told[-2]


def test_late_order_is_told_and_lost_writer_is_not_waited_for() -> None:
    """Writing that takes long is told once and goes on; an order that nobody takes is given up after the same time."""
    meetings = Meetings()
    meetings.meet(4)
    meetings.clock.advance(LATE_S)
    meetings.meet(5, *({"shared": WORKING, "local": WAITING}, {"shared": WORKING, "local": WORKING}))
    meetings.meet(6, *both(WORKING))
    assert ["degraded shared 4", "degraded local 4"] == meetings.told
    meetings.meet(7, *both(DONE))
    assert ["recovered shared 4", "saved shared 4", "recovered local 5", "saved local 5"] == meetings.told[2:]


def test_without_a_writer_ranks_write_every_other_time() -> None:
    """A store whose order nobody takes is written by the ranks, then ordered again; a local tier is only ordered again."""
    meetings = Meetings()
    meetings.meet(4)
    meetings.clock.advance(LATE_S)
    first = meetings.meet(5, *both(WAITING))
    assert ({"shared"}, {"local"}) == (set(first.sync), set(first.orders))
    meetings.chair.written("shared", CheckpointName(0, 5), "test", "", size_bytes=1, started_s=meetings.clock.now)
    assert "recovered shared 5" in meetings.told
    assert {"shared", "local"} == set(meetings.meet(8, *both(DONE)).orders)


def test_memory_that_fails_makes_ranks_write_what_is_due() -> None:
    """Without a copy in memory a due store is written by the ranks; one that is not due waits; trouble is told once."""
    meetings = Meetings()
    bad = (Staged(), Staged("no room"))
    assert {} == meetings.meet(3, copies=bad).sync
    meetings.clock.advance(60)
    assert {"shared": "every 4 steps"} == meetings.meet(4, copies=bad).sync
    assert ["degraded ram 3"] == meetings.told
    meetings.clock.advance(60)
    assert "" == meetings.meet(5).error
    assert ["degraded ram 3", "recovered ram 5"] == meetings.told


def test_busy_memory_is_no_trouble() -> None:
    """Memory that is being read or written from is left alone for a moment, and nothing is told."""
    meetings = Meetings()
    outcome = meetings.meet(4, copies=(Staged(), Staged("in use", is_busy=True)))
    assert ({}, {}, []) == (outcome.orders, outcome.sync, meetings.told)
    assert not outcome.meeting.certain


def test_overtaken_rank_ends_all() -> None:
    """One rank, or one writer, that meets a newer incarnation is enough."""
    assert Meetings().meet(1, copies=(Staged(), Staged("old", overtaken=True))).overtaken
    meetings = Meetings()
    meetings.meet(4)
    assert meetings.meet(5, {}, {"shared": Report("done", "old", overtaken=True)}).overtaken


def test_reports_speak_of_the_order_that_was_placed() -> None:
    """The keeper's answer is read for one checkpoint; what it says of another one means that the order is lost."""
    result = {"name": [0, 4], "seconds": 1.5, "size_bytes": 7, "committed": True}
    assert Report("done", "", 7, 1.5) == read_report({"waiting": None, "working": None, "result": result}, NAME)
    assert WORKING == read_report({"waiting": [0, 5], "working": [0, 4], "result": None}, NAME)
    assert WAITING == read_report({"waiting": [0, 4], "working": [0, 3], "result": None}, NAME)
    assert "lost" == read_report({"waiting": None, "working": None, "result": {**result, "name": [0, 3]}}, NAME).state
    assert Report("lost", "the keeper is gone") == read_report({"error": "the keeper is gone"}, NAME)


def test_order_that_a_rank_lost_has_failed() -> None:
    """A keeper that died with its orders, or a rank that could not place one, ends the order for all."""
    order = Order("shared", NAME, "test", 0.0)
    assert settle(order, [DONE, WORKING], 1.0, 0.0) is None
    lost = settle(order, [DONE, Report("lost", "the keeper is gone")], 1.0, 0.0)
    assert lost is not None and "rank 1: the keeper is gone" == lost.error
    missing = settle(order, [DONE, None], 1.0, 0.0)
    assert missing is not None and "a rank did not place the order" == missing.error
