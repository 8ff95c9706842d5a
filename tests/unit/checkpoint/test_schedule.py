"""How far saves are apart: the formulas, the measured cost, the failure rate, and the reason that is told."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.checkpoint.schedule import Interval, TierSchedule, auto_interval, retry_delay_s, span
from hpctrain.checkpoint.schedule_cost import Cost, CostMeter, FailureRate, RunHistory, daly_s, waste, young_s

HOUR = 3600.0
STALLS = (120.0, 13.0, 6.3, 1.0, 0.2, 0.04)
"""Columns of the reference's table; its rows are mean times between failures of 7.9, 1.8 and 0.23 h."""


def test_young_gives_the_numbers_of_the_reference() -> None:
    """For 7.9 h between failures the table's intervals come out, to the second."""
    assert [2613, 860, 599, 238, 107, 48] == [round(young_s(stall, 7.9 * HOUR)) for stall in STALLS]


@pytest.mark.parametrize(("mttf_h", "percent"), [
    (7.9, [9.2, 3.0, 2.1, 0.84, 0.38, 0.17]), (1.8, [19.3, 6.3, 4.4, 1.8, 0.79, 0.35]),
    (0.23, [53.8, 17.7, 12.3, 4.9, 2.2, 0.98]),
])
def test_least_waste_is_that_of_the_reference(mttf_h: float, percent: list[float]) -> None:
    """The table's shares of lost time come out at the interval that the formula gives."""
    mttf = mttf_h * HOUR
    found = [100 * waste(young_s(stall, mttf), stall, mttf) for stall in STALLS]
    assert percent == pytest.approx(found, rel=0.03)


def exact_cost(tau: float, stall: float, mttf: float) -> float:
    """Expected time per second of work with exponential failures (Daly 2006, complete model without restart time)."""
    return mttf * math.expm1((tau + stall) / mttf) / tau


@given(st.floats(0.001, 1000), st.floats(10, 1e7))
def test_daly_is_near_the_exact_optimum(stall: float, mttf: float) -> None:
    """Its interval loses no more than 0.2 % against the best of a fine search, wherever the stall is below half of M."""
    if stall > mttf / 2:
        return
    ours = daly_s(stall, mttf)
    best = min(exact_cost(ours * 0.2 * 1.03**power, stall, mttf) for power in range(110))
    assert exact_cost(ours, stall, mttf) <= best * 1.002


def test_daly_without_an_optimum_is_the_time_between_failures() -> None:
    """When a save takes twice the time between failures there is no optimum: the definition says M."""
    assert 10.0 == daly_s(20, 10)
    assert 10.0 == daly_s(1000, 10)
    assert daly_s(19.999, 10) == pytest.approx(20 * (1 + 1 / 3 + 1 / 9) - 20, rel=1e-3)


def test_auto_says_what_decides() -> None:
    """The longest of Daly's interval, the overhead cap and the writing time decides, and the reason names it."""
    mttf = 7.9 * HOUR
    daly = auto_interval(Cost(0.02), mttf)
    assert daly.seconds == pytest.approx(daly_s(0.02, mttf))
    assert "auto: every 33.7 s = Daly for 0.02 s stall and 7.9 h between failures" == daly.reason
    assert Interval(None, 12.0, "auto: every 12 s = 0.12 s stall costs 1 % of the time") == auto_interval(Cost(0.12), 60)
    assert Interval(None, 160.0, "auto: every 160 s = 40 s of writing take 25 % of the time") == auto_interval(
        Cost(0.02, 40), mttf)
    assert "auto: now, to measure what it costs" == auto_interval(None, mttf).reason
    rare = auto_interval(Cost(0.02), 1e9)
    assert 600 == rare.seconds
    assert rare.reason.startswith("auto: every 10 min = the longest that auto waits (Daly for")
    assert 60 == auto_interval(Cost(0.02), 1e9, longest_s=60).seconds
    assert 500 == auto_interval(Cost(5.0), 1e9, longest_s=60).seconds


@given(st.floats(0, 100), st.floats(0, 1000), st.floats(1, 1e9), st.floats(0.001, 0.5))
def test_auto_keeps_below_its_cap(stall: float, persist: float, mttf: float, cap: float) -> None:
    """Whatever is measured: stalls stay below the cap, and a save never begins before the last one can have ended."""
    seconds = auto_interval(Cost(stall, persist), mttf, cap).seconds
    assert stall <= seconds * cap * 1.0001
    assert persist <= seconds


def test_fixed_intervals_are_what_was_asked_for() -> None:
    """Steps and seconds are taken as they are, whatever it costs."""
    expensive = Cost(100, 1000)
    assert Interval(10, 0.0, "every 10 steps") == TierSchedule(every_steps=10).interval(expensive, 60)
    assert Interval(None, 90.0, "every 90 s") == TierSchedule(every_s=90).interval(expensive, 60)


@pytest.mark.parametrize("arguments", [{"every_steps": 0}, {"every_s": -1.0}, {"every_steps": 1, "every_s": 1.0}])
def test_impossible_schedule_is_refused(arguments: dict[str, float]) -> None:
    """Zero, negative, or both at once is an error."""
    with pytest.raises(ValueError, match=r"more than 0|not both"):
        TierSchedule(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [TierSchedule(), TierSchedule(every_steps=5), TierSchedule(every_s=2.5)])
def test_schedule_reads_back(schedule: TierSchedule) -> None:
    """A schedule survives JSON."""
    assert schedule == TierSchedule.from_json(schedule.to_json())


@pytest.mark.parametrize("value", ["often", None, 5, {}, {"every_steps": "5"}, {"every_steps": 1.5}, {"every_s": True},
                                   {"every_steps": 1, "every_s": 1}, {"every_hours": 1}])
def test_other_json_is_no_schedule(value: object) -> None:
    """Anything else is refused."""
    with pytest.raises(ValueError, match="schedule"):
        TierSchedule.from_json(value)


def test_cost_is_the_median_of_the_last_saves() -> None:
    """One save that was disturbed changes nothing, and after five others the first ones are forgotten."""
    meter = CostMeter()
    assert meter.cost() is None
    for seconds in (1, 1, 90, 1, 1):
        meter.stalled(seconds)
    meter.persisted(7)
    assert Cost(1, 7) == meter.cost()
    for _ in range(5):
        meter.stalled(3)
    assert Cost(3, 7) == meter.cost()


def test_failure_rate_starts_from_the_number_of_nodes() -> None:
    """1,000 nodes fail 6.5 times a day; a known time between failures counts instead."""
    assert FailureRate(1000).mean_time_s() == pytest.approx(86400 / 6.5)
    assert 1.8 * HOUR == FailureRate(1000, mttf_s=1.8 * HOUR).mean_time_s()


def test_failure_rate_learns() -> None:
    """Failures that the run has seen shorten the expected time at once, quiet time lengthens it slowly."""
    prior = FailureRate(128).mean_time_s()
    assert FailureRate(128, failures=1).mean_time_s() == pytest.approx(prior / 2)
    assert FailureRate(128, failures=0, observed_s=prior).mean_time_s() == pytest.approx(2 * prior)
    assert FailureRate(128, failures=99, observed_s=99 * 600).mean_time_s() == pytest.approx((prior + 99 * 600) / 100)


def test_run_remembers_its_failures() -> None:
    """A start that follows an end out of order counts as a failure; a stop, and a rewind within one start, do not."""
    world = {"run": RunHistory(2, 3600.0).to_json()}
    assert RunHistory(3, 3600.0) == RunHistory.continued(world, "every 10 steps", by_new_start=True)
    assert RunHistory(2, 3600.0) == RunHistory.continued(world, "stop was requested", by_new_start=True)
    assert RunHistory(2, 3600.0) == RunHistory.continued(world, "every 10 steps", by_new_start=False)
    assert RunHistory(1, 0.0) == RunHistory.continued({}, "every 10 steps", by_new_start=True)


def test_retries_back_off() -> None:
    """A save that failed is tried at the next step, then after 2, 4, 8 ... and at most 60 s."""
    assert [0, 2, 4, 8, 16, 32, 60, 60] == [retry_delay_s(failures) for failures in (1, 2, 3, 4, 5, 6, 7, 10**6)]


@pytest.mark.parametrize(("seconds", "text"), [
    (0.0, "0 s"), (0.00042, "0.42 ms"), (0.02, "0.02 s"), (14.04, "14 s"), (119, "119 s"), (600, "10 min"),
    (7.9 * HOUR, "7.9 h"), (3 * 86400, "3 d"),
])
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    """Two or three digits in the unit that fits."""
    assert text == span(seconds)
