"""Per-step metrics over restarts, and of large files."""

from __future__ import annotations

import math
import time

import pytest

from hpctrain.jobs import metrics
from hpctrain.jobs.eta import Pace, pace, remaining_s
from hpctrain.jobs.metrics import read_metrics, read_tail
from hpctrain.jobs.records import Point
from hpctrain.testing.run_builder import RunBuilder


@pytest.fixture
def builder(tmp_path):
    return RunBuilder(tmp_path, "tiny-1")


def test_redone_steps_count_once_and_the_later_wins(builder):
    """Of a step that a restart did again only the later incarnation's point is kept."""
    builder.steps(1, 8, start=0, loss=lambda _: 9.0).steps(6, 10, start=20, incarnation=1, loss=lambda _: 1.0)
    found = read_metrics(builder.dir.metrics)
    assert [p.step for p in found.points] == list(range(1, 11))
    assert [p.loss for p in found.points] == [9.0] * 5 + [1.0] * 5


def test_a_restart_that_has_not_caught_up_hides_what_it_will_redo(builder):
    """Points of an earlier incarnation beyond the later one's first step are not part of the run any more."""
    builder.steps(1, 8, start=0).steps(3, 4, start=20, incarnation=1)
    assert [p.step for p in read_metrics(builder.dir.metrics).points] == [1, 2, 3, 4]


def test_restarts_tell_how_many_steps_were_lost(builder):
    """A restart knows where it went back to, and what was done twice."""
    builder.steps(1, 8, start=0).steps(6, 9, start=20, incarnation=1).steps(10, 12, start=40, incarnation=3)
    first, second = read_metrics(builder.dir.metrics).restarts
    assert (first.incarnation, first.first_step, first.steps_redone) == (1, 6, 3)
    assert (second.incarnation, second.first_step, second.steps_redone) == (3, 10, 0)


def test_torn_and_foreign_lines_are_skipped(builder):
    """A torn last line, binary rubbish and lines without a step break nothing."""
    builder.steps(1, 2, start=0)
    with builder.dir.metrics.open("ab") as file:
        file.write(b'\xff\xfe\n[]\n"x"\n{"time": 3}\n{"step": 3, "time": 9.0}\n{"step": 4, "ti')
    assert [p.step for p in read_metrics(builder.dir.metrics).points] == [1, 2, 3]


def test_null_loss_is_a_loss_that_was_no_number(builder):
    """The trainer writes NaN as null; a missing loss is something else."""
    builder.dir.metrics.write_text('{"step": 1, "time": 1, "loss": null}\n{"step": 2, "time": 2}\n')
    one, two = read_metrics(builder.dir.metrics).points
    assert one.loss is not None and math.isnan(one.loss) and two.loss is None


def test_missing_file_is_empty(tmp_path):
    """No metrics are no error."""
    assert read_metrics(tmp_path / "none").points == () and read_tail(tmp_path / "none") == []


def test_large_file_is_sampled_with_exact_restarts(builder, monkeypatch):
    """Of a large file evenly spaced points are read; ends and restarts are exact."""
    monkeypatch.setattr(metrics, "READ_WHOLE_BYTES", 1000)
    builder.steps(1, 3000, start=0).steps(2501, 4000, start=4000, incarnation=1).steps(3991, 5000, start=9000, incarnation=2)
    whole, sampled = read_metrics(builder.dir.metrics), read_metrics(builder.dir.metrics, samples=50)
    assert sampled.sampled and 40 <= len(sampled.points) <= 60
    assert sampled.restarts == whole.restarts and len(whole.restarts) == 2
    assert (sampled.points[0], sampled.points[-1]) == (whole.points[0], whole.points[-1])
    assert set(sampled.points) <= set(whole.points)


def test_a_million_steps_are_read_in_a_moment(builder):
    """A report of a million steps takes well under a second of reading."""
    line = '{"step":%d,"time":%d.5,"incarnation":0,"loss":2.5,"tokens":1,"tokens_per_s":1000.0,"step_time_s":1.0}\n'
    with builder.dir.metrics.open("w") as file:
        for start in range(0, 1_000_000, 50_000):
            file.write("".join(line % (step, step) for step in range(start + 1, start + 50_001)))
    before = time.perf_counter()
    found = read_metrics(builder.dir.metrics, samples=4000)
    assert time.perf_counter() - before < 2.0
    assert found.points[-1].step == 1_000_000 and 3500 < len(found.points) < 4500


def test_tail_is_of_one_incarnation(builder):
    """Speed is measured over the newest incarnation only."""
    builder.steps(1, 5, start=0).steps(4, 6, start=50, incarnation=1)
    assert [p.step for p in read_tail(builder.dir.metrics)] == [4, 5, 6]


def test_tail_of_a_large_file_starts_at_a_whole_line(builder):
    """Reading from the middle of a file never yields half a line."""
    builder.steps(1, 500, start=0)
    tail = read_tail(builder.dir.metrics, size_bytes=1000)
    assert tail[-1].step == 500 and 2 <= len(tail) < 10


def points(count: int, seconds: float) -> list[Point]:
    return [Point(step=i, time=i * seconds, tokens_per_s=100.0, step_time_s=seconds / 2) for i in range(1, count + 1)]


def test_eta_counts_what_lies_between_steps():
    """Time left is measured by the wall clock, saves included, not by the steps alone."""
    speed = pace(points(10, 4.0))
    assert speed == Pace(4.0, 2.0, 100.0)
    assert remaining_s(speed, 10, 60) == 200.0


def test_eta_takes_off_the_step_under_way_at_most_once():
    """Time since the last step is taken off, but a hang does not make the end come nearer."""
    assert remaining_s(Pace(10.0), 1, 3, since_last_step_s=4.0) == 16.0
    assert remaining_s(Pace(10.0), 1, 3, since_last_step_s=500.0) == 10.0


def test_eta_is_unknown_rather_than_wrong():
    """Without speed, step or total there is no ETA; after the last step it is zero."""
    assert remaining_s(Pace(), 1, 3) is None
    assert remaining_s(Pace(1.0), None, 3) is None
    assert remaining_s(Pace(1.0), 3, None) is None
    assert remaining_s(Pace(1.0), 3, 3) == 0.0
    assert pace([]) == Pace()
