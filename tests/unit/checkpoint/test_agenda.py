"""When ranks meet, and what is due then: on a clock that tests move by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.checkpoint.agenda import Agenda, Meeting, Turn
from hpctrain.checkpoint.schedule import TierSchedule
from hpctrain.checkpoint.schedule_cost import FailureRate


class Training:
    """Steps on a clock; at each meeting what is due is saved at once, and everything is noted."""

    def __init__(self, *turns: Turn, step_s: Callable[[int], float] = lambda _step: 1.0, start: int = 0) -> None:
        self.now, self.step, self.step_s = 1000.0, start, step_s
        self.agenda = Agenda(turns, FailureRate(1, mttf_s=3600.0), 0.01, step=start, now_s=self.now)
        self.meeting = self.agenda.next_meeting(start, self.now)
        self.meetings: list[int] = []
        self.saves: dict[str, list[int]] = {turn.tier: [] for turn in turns}
        self.times: dict[str, list[float]] = {turn.tier: [] for turn in turns}
        self.surprises: list[int] = []
        self.broken = False

    def run(self, steps: int) -> Training:
        for _ in range(steps):
            self.step += 1
            self.now += self.step_s(self.step)
            if self.step >= self.meeting.step:
                self.meet()
        return self

    def meet(self) -> None:
        self.agenda.arrive(self.step, self.now)
        due = self.agenda.due(self.step, self.now)
        if self.meeting.certain and not due:
            self.surprises.append(self.step)
        self.meetings.append(self.step)
        for tier in due:
            self.saves[tier].append(self.step)
            self.times[tier].append(self.now)
            self.agenda.turns[tier].saved(self.step, self.now)
            if self.broken:
                self.agenda.turns[tier].failed(self.now)
        self.agenda.leave(self.now)
        self.meeting = self.agenda.next_meeting(self.step, self.now)


def every(steps: int, tier: str = "shared") -> Turn:
    return Turn(tier, TierSchedule(every_steps=steps))


def seconds(value: float, tier: str = "shared") -> Turn:
    return Turn(tier, TierSchedule(every_s=value))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40))
def test_steps_are_exact(ram: int, shared: int, start: int) -> None:
    """Intervals in steps give saves at exactly their multiples, and a meeting nowhere else."""
    training = Training(every(ram, "ram"), every(shared), start=start).run(120)
    for tier, interval in (("ram", ram), ("shared", shared)):
        assert [step for step in range(start + 1, start + 121) if step % interval == 0] == training.saves[tier]
    assert sorted({*training.saves["ram"], *training.saves["shared"]}) == training.meetings
    assert [] == training.surprises


def test_seconds_become_the_nearest_step() -> None:
    """Saves by time come within a step of when they are wanted, with a few meetings each."""
    training = Training(seconds(600), step_s=lambda _step: 2.0).run(1500)
    apart = [later - earlier for earlier, later in zip(training.times["shared"], training.times["shared"][1:], strict=False)]
    assert 5 == len(training.saves["shared"])
    assert all(abs(gap - 600) <= 2 for gap in apart)
    assert len(training.meetings) <= 12 * len(training.saves["shared"])


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.9])
def test_steps_that_change_their_pace_save_in_time(factor: float) -> None:
    """Steps that become faster, or slower by less than twice, make no save late by more than a few steps."""
    training = Training(seconds(600), step_s=lambda step: 2.0 if step < 100 else 2.0 * factor).run(2000)
    previous = 1000.0
    for time_s in training.times["shared"]:
        assert time_s - previous <= 600 + 10 + 4 * factor
        previous = time_s


def test_one_slow_step_is_forgiven() -> None:
    """A step that takes minutes (an evaluation) delays nothing afterwards."""
    training = Training(seconds(100), step_s=lambda step: 300.0 if step == 150 else 1.0).run(500)
    late = [later - earlier for earlier, later in zip(training.times["shared"], training.times["shared"][1:], strict=False)]
    assert 1 == sum(gap > 102 for gap in late)


def test_without_tiers_nobody_meets() -> None:
    """With nothing to save there is no meeting."""
    assert [] == Training().run(1000).meetings


def test_auto_measures_first_and_then_keeps_its_interval() -> None:
    """A tier of unknown cost is saved at the first step; with a cost, at the interval that follows from it."""
    turn = Turn("ram", TierSchedule())
    training = Training(turn, step_s=lambda _step: 0.5).run(1)
    assert [1] == training.saves["ram"]
    turn.meter.stalled(0.05)
    training.run(200)
    interval = training.agenda.intervals()["ram"]
    assert 18 < interval.seconds < 20  # Daly for 0.05 s and one hour
    gaps = {later - earlier for earlier, later in zip(training.saves["ram"][1:], training.saves["ram"][2:], strict=False)}
    assert gaps <= {round(interval.seconds / 0.5) + shift for shift in (-1, 0, 1)}


def test_cost_that_changes_changes_the_interval() -> None:
    """When saves become ten times as expensive, they become rarer, without a restart."""
    turn = Turn("ram", TierSchedule())
    training = Training(turn, step_s=lambda _step: 0.5).run(1)
    turn.meter.stalled(0.01)
    before = training.agenda.intervals()["ram"].seconds
    for _ in range(5):
        turn.meter.stalled(0.1)
    assert training.agenda.intervals()["ram"].seconds > 3 * before


def test_busy_tier_waits_without_meeting_at_every_step() -> None:
    """While a save is on its way, the tier is not due, and ranks look again about once a second."""
    turn = seconds(10)
    training = Training(turn, step_s=lambda _step: 0.01).run(1010)
    saved = len(training.saves["shared"])
    turn.busy = True
    training.meetings.clear()
    training.run(3000)
    assert saved == len(training.saves["shared"])
    assert len(training.meetings) <= 40
    turn.busy = False
    training.run(150)
    assert saved + 1 == len(training.saves["shared"])


def test_busy_tier_takes_the_next_multiple() -> None:
    """A save by steps that finds its tier busy is left out; the newest state is saved at the next chance."""
    turn = every(10)
    training = Training(turn, every(5, "ram")).run(10)
    turn.busy = True
    training.run(12)
    turn.busy = False
    training.run(8)
    assert [10, 25, 30] == training.saves["shared"]


def test_failed_save_is_tried_again_with_growing_pauses() -> None:
    """After a failure the next step is due, then each pause is longer; once it works the schedule counts again."""
    turn = every(100)
    training = Training(turn)
    training.broken = True
    training.run(190)
    assert [100, 101, 103, 107, 115, 131, 163] == training.saves["shared"]
    assert turn.succeeded()
    training.broken = False
    training.run(120)
    assert [200, 300] == training.saves["shared"][7:]


def test_multiple_is_tried_in_spite_of_failures() -> None:
    """A durable tier is tried at its own steps, however often it has failed before; the pauses count in between."""
    turn = Turn("shared", TierSchedule(every_steps=10), insists=True)
    training = Training(turn)
    training.broken = True
    training.run(50)
    assert [10, 11, 13, 17, 20, 30, 40, 50] == training.saves["shared"]


def test_failure_and_recovery_are_news_once() -> None:
    """Only the first failure, and the success that ends it, are to be told."""
    turn = every(1)
    assert [True, False, False] == [turn.failed(0.0) for _ in range(3)]
    assert [True, False] == [turn.succeeded() for _ in range(2)]


def test_meeting_that_saves_for_certain_is_agreed_before() -> None:
    """For saves by steps nobody asks rank 0 again; for one by time that is far off, everybody does."""
    training = Training(every(7), step_s=lambda _step: 1.0)
    assert Meeting(7, certain=True, reason="every 7 steps") == training.meeting
    far = Training(seconds(1000))
    far.run(1)
    assert not far.meeting.certain
    assert 400 < far.meeting.step <= 500


def test_writing_that_slows_steps_down_counts_as_cost() -> None:
    """When steps take longer while a tier is written, its interval grows by that."""
    turn = Turn("shared", TierSchedule())
    training = Training(turn, every(5, "ram"), step_s=lambda step: 1.5 if step > 50 else 1.0)
    turn.meter.stalled(0.01)
    turn.meter.persisted(20)
    training.run(50)
    before = training.agenda.intervals()["shared"].seconds
    turn.busy = True
    training.run(50)
    after = training.agenda.intervals()["shared"]
    assert 80 == before  # four times the writing
    assert after.seconds == pytest.approx(1001, rel=0.01)  # 10 s and 0.01 s of every 1,001 s
    assert "1 % of the time" in after.reason
