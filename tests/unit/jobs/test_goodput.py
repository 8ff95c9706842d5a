"""Where a run's time went."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.jobs.event import Event
from hpctrain.jobs.goodput import BETWEEN, CATEGORIES, OTHER, QUEUE, RECOVERY, REDONE, STARTUP, TRAINING, Size, measure
from hpctrain.jobs.incident import Incident
from hpctrain.jobs.incidents import find_incidents
from hpctrain.jobs.records import Metrics, Point, find_restarts, merge_points
from tests.unit.jobs.story import Story


def steps(first: int, last: int, start: float, *, each: float = 1.0, own: float = 0.9, incarnation: int = 0) -> list[Point]:
    """Points of steps that take ``each`` seconds, ``own`` of them computing."""
    return [Point(step, start + each * index, incarnation, loss=2.0, step_time_s=own)
            for index, step in enumerate(range(first, last + 1), start=1)]


def together(points: list[Point]) -> Metrics:
    return Metrics(merge_points(points), find_restarts(points))


def test_a_calm_run_is_queue_start_training_and_the_time_between() -> None:
    """Ten seconds in the queue, ten until the loop, a hundred steps."""
    events = [Event(0, "submit", "job.submitted"), Event(10, "coordinator", "job.started"),
              Event(125, "coordinator", "job.finished")]
    made = measure(events, [], together(steps(1, 100, 20)), submitted=0, until=125, size=Size(2, 16))

    assert made.seconds == pytest.approx({TRAINING: 90, BETWEEN: 9.9, REDONE: 0, RECOVERY: 0, STARTUP: 10.1, QUEUE: 10,
                                          OTHER: 5})
    assert made.ettr == pytest.approx(90 / 125)
    assert made.goodput == pytest.approx(90 / 115)
    assert made.total_cost == pytest.approx(16 * 115 / 3600)
    assert (0, {}, ()) == (made.lost_steps, made.cost, made.sliding)


def test_work_done_again_is_counted_once() -> None:
    """Steps 81 to 100 are lost at second 120.5; the first new step is 81, done at 131."""
    points = [*steps(1, 100, 20), *steps(81, 120, 130, incarnation=1)]
    events = [Event(10, "coordinator", "job.started"), Event(171, "coordinator", "job.finished")]
    incident = Incident(1, "rank", "R1", 120.5, mended_time=131.0, outcome="recovered")
    made = measure(events, [incident], together(points), submitted=10, until=171, size=Size(2))

    assert made.lost_steps == 20
    assert made.seconds[REDONE] == pytest.approx(20.5)
    assert made.seconds[RECOVERY] == pytest.approx(10.5)
    assert made.seconds[TRAINING] == pytest.approx(120 * 0.9, abs=1.0)
    assert made.cost == {1: pytest.approx(2 * 31 / 3600)}
    assert made.size.unit == "node-hours"


def test_the_queue_of_a_requeue_is_no_recovery_and_costs_nothing() -> None:
    """Between requeue and start no nodes are held."""
    story = Story(0).begin()
    story.tell("rank.failed", "dead", after=100 - story.now, source="agent", node="n2")
    story.tell("job.requeued", "dead", after=1).tell("job.started", after=60, restarts=1).ranks(1)
    story.tell("step.first", after=170 - story.now, source="trainer", step=91)
    points = [*steps(1, 90, 10), *steps(91, 100, 169, incarnation=1)]
    made = measure(story.events, find_incidents(story.events), together(points), submitted=0, until=180, size=Size(1, 8))

    assert made.seconds[QUEUE] == pytest.approx(5 + 60)
    assert made.seconds[RECOVERY] == pytest.approx(10)
    assert made.cost[1] == pytest.approx(8 * 10 / 3600)


def test_a_sliding_hour_shows_when_a_run_was_ill() -> None:
    """Two good hours around one without a step."""
    points = [*steps(1, 3600, 0, own=1.0), *steps(3601, 7200, 7200, own=1.0, incarnation=1)]
    incident = Incident(1, "node", "R3", 3600.0, mended_time=7201.0, outcome="recovered")
    made = measure([Event(0, "coordinator", "job.started")], [incident], together(points), submitted=0, until=10800,
                   size=Size(1))

    assert made.ettr == pytest.approx(2 / 3, abs=0.01)
    assert (made.sliding[0][1], made.sliding[-1][1]) == pytest.approx((1.0, 1.0), abs=0.01)
    assert made.lowest_hour == pytest.approx((7200, 0.0), abs=0.01)


def test_without_metrics_everything_but_recovery_is_training() -> None:
    """A script of the user's own writes no metrics."""
    story = Story(0).begin().fault(after=100 - 7.2)
    fault = story.events[-1].evidence["fault_time"]
    story.recovery("R1").recovered("R1", fault_time=fault, detect_s=1, first_step_s=4).tell("job.finished", after=95)
    made = measure(story.events, find_incidents(story.events), Metrics(), submitted=0, until=story.now, size=Size(1))

    assert not made.measured
    assert made.seconds[RECOVERY] == pytest.approx(5)
    assert made.seconds[TRAINING] == pytest.approx(story.now - 5 - 5.1, abs=0.2)


def test_a_job_that_never_started_has_only_queue() -> None:
    """All of it is waiting, and the ratio is zero."""
    made = measure([Event(0, "submit", "job.submitted")], [], Metrics(), submitted=0, until=50, size=Size())

    assert (50, 0.0, None, None) == (made.seconds[QUEUE], made.ettr, made.goodput, made.size.hours(5))


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), back=st.lists(st.integers(0, 40), min_size=6, max_size=6),
    gaps=st.lists(st.floats(0, 500), min_size=6, max_size=6), own=st.floats(0, 1), late=st.floats(0, 3),
)
def test_categories_cover_all_time_exactly_once(
    lengths: list[int], back: list[int], gaps: list[float], own: float, late: float,
) -> None:
    """Whatever happens, the parts add up to the whole, follow each other, and no ratio leaves 0 to 1."""
    points: list[Point] = []
    incidents: list[Incident] = []
    time, step = 10.0, 0
    for index, (count, lost, gap) in enumerate(zip(lengths, back, gaps, strict=False)):
        if index:
            fault = time + min(late, gap)
            incidents.append(Incident(index, "rank", "R1", fault, mended_time=time + gap + 1))
            step, time = max(0, step - lost), time + gap
        points += steps(step + 1, step + count, time, own=own, incarnation=index)
        time, step = time + count, step + count
    events = [Event(5, "coordinator", "job.started")]

    made = measure(events, incidents, together(points), submitted=0, until=time + 7, size=Size(2, 4))

    assert sum(made.seconds.values()) == pytest.approx(time + 7)
    assert all(left.end == pytest.approx(right.start) for left, right in zip(made.segments, made.segments[1:], strict=False))
    assert set(made.seconds) == set(CATEGORIES)
    assert 0 <= (made.ettr or 0) <= 1 and 0 <= (made.goodput or 0) <= 1
    assert all(0 <= value <= 1.0001 for _, value in made.sliding)
    json.dumps(made.to_json(), allow_nan=False)
