"""Report, timeline, chart and words."""

from __future__ import annotations

import math

import pytest

from hpctrain.cli.chart import draw, round_ticks
from hpctrain.jobs.describe import degraded_tiers
from hpctrain.jobs.event import Event, merge
from hpctrain.jobs.records import Metrics, Point
from hpctrain.jobs.report import averaged, make_report, make_timeline, thin
from hpctrain.jobs.screen import Screen, progress_text
from hpctrain.jobs.status import JobStatus, State
from hpctrain.jobs.text import ago, cells, count, cut, duration, loss, parse_since

STATUS = JobStatus(7, "tiny-1", "/runs/tiny-1", State.RUNNING, step=40, total_steps=100, submitted_time=0.0)


def event(time: float, kind: str, **more: object) -> Event:
    return Event(time, "x", kind, 7, **more)  # type: ignore[arg-type]


def test_timeline_folds_saves_and_nodes():
    """Saves in a row, and one start told by many nodes, are one line each."""
    events = [
        event(1, "job.started"),
        *(event(2, "ranks.started", node=f"n{i}") for i in range(1, 9)),
        *(event(10 + i, "checkpoint.saved", step=i * 10) for i in range(1, 6)),
        event(30, "rank.failed", node="n2", reason="died"),
        event(40, "checkpoint.saved", step=60),
    ]
    assert [entry.what for entry in make_timeline(events)] == [
        "job started",
        "ranks started on 8 nodes",
        "5 checkpoints saved, steps 10 to 50",
        "a rank failed on n2: died",
        "checkpoint saved at step 60",
    ]


def test_unknown_kinds_are_kept():
    """An event of a later version of hpctrain is shown under its own name."""
    assert make_timeline([event(1, "moon.landed", reason="softly")])[0].what == "moon.landed: softly"


def test_report_counts_bad_losses_apart():
    """NaN and infinite losses do not spoil first, last and lowest, and are counted."""
    points = tuple(Point(i, float(i), loss=value) for i, value in enumerate([3.0, math.nan, 2.0, math.inf], start=1))
    report = make_report(STATUS, [], Metrics(points))
    assert (report.first_loss, report.last_loss, report.lowest_loss) == (3.0, 2.0, 2.0)
    assert (report.bad_loss_steps, report.first_bad_step) == (2, 2)


@pytest.mark.parametrize("limit", [2, 3, 10, 99, 100, 101])
def test_thinning_keeps_both_ends(limit):
    """A thinned curve starts and ends where the whole one does."""
    points = [Point(step, float(step)) for step in range(1, 101)]
    thinned = thin(points, limit)
    assert (thinned[0], thinned[-1]) == (points[0], points[-1]) and len(thinned) <= limit
    assert [p.step for p in thinned] == sorted({p.step for p in thinned})


def test_averaging_keeps_the_mean():
    """Binned losses have the mean of what is in the bin."""
    steps, losses = averaged([Point(step, 0.0, loss=float(step)) for step in range(1, 1001)], 10)
    assert len(steps) == 10 and sum(losses) / 10 == pytest.approx(500.5, rel=0.01)
    assert averaged([Point(1, 0.0, loss=math.nan)], 10) == ([], [])


@pytest.mark.parametrize(("low", "high"), [(1, 200), (0, 1), (5, 5), (1, 10**6), (999_001, 999_500), (0.5, 0.6)])
def test_ticks_are_inside(low, high):
    """Tick marks lie within the axis, in order, and are few."""
    ticks = round_ticks(low, high, 5)
    assert ticks == sorted(set(ticks)) and low == ticks[0] and ticks[-1] <= high and len(ticks) <= 8


@pytest.mark.parametrize("unicode", [True, False])
def test_chart_fits_and_says_no_more_than_it_may(unicode):
    """A chart keeps its width, has no colour codes unless asked, and is ASCII where it must be."""
    text = draw([1, 2, 3], [3.0, 2.0, 1.0], title="loss", width=60, height=10, marks=[2], unicode=unicode)
    assert max(cells(line) for line in text.splitlines()) <= 60 and "\x1b" not in text
    assert unicode or text.isascii()
    assert "\x1b[" in draw([1, 2], [2.0, 1.0], title="loss", colour=True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.003, "0s"),
        (0.44, "0.4s"),
        (9.96, "10s"),
        (12.4, "12s"),
        (60, "1m"),
        (185, "3m 05s"),
        (3600, "1h"),
        (7500, "2h 05m"),
        (86400 * 3 + 3600 * 4, "3d 04h"),
        (None, "-"),
        (math.nan, "-"),
        (math.inf, "-"),
        (-5, "0s"),
    ],
)
def test_durations(seconds, text):
    """Durations have at most two units."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (7.25, "7.2"),
        (950, "950"),
        (12_345, "12.3k"),
        (4_560_000, "4.56M"),
        (1.2e12, "1.20T"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_counts(number, text):
    """Counts have three digits and a suffix."""
    assert count(number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.34567, "2.346"),
        (0.000123456, "0.0001235"),
        (12345.6, "1.235e+04"),
        (math.nan, "NaN"),
        (math.inf, "inf"),
        (None, "-"),
    ],
)
def test_losses(value, text):
    """Losses have four digits; what is no number is named."""
    assert loss(value) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (0.5, "just now"),
        (-100, "just now"),
        (59, "59s ago"),
        (200, "3m ago"),
        (6000, "1h 40m ago"),
        (90000, "1d ago"),
        (31 * 3600, "1d ago"),
        (7 * 3600 + 60, "7h ago"),
    ],
)
def test_ages(age, text):
    """Ages are rough, and never in the future."""
    assert ago(1000.0, 1000.0 + age) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", 9400.0),
        ("1h30m", 4600.0),
        ("90s", 9910.0),
        ("1970-01-01T00:01:00Z", 60.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
    ],
)
def test_since(text, expected):
    """--since takes ages and ISO times."""
    assert parse_since(text, 10000.0) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "10x", "yesterday", "-5m", "1970-13-01"])
def test_since_refuses_the_rest(text):
    """What is neither is refused with an example."""
    with pytest.raises(ValueError, match="such as 10m"):
        parse_since(text, 10000.0)


def test_cut_counts_columns():
    """Wide characters take two columns, combining ones none."""
    assert cells("日本") == 4 and cells("e\u0301") == 1
    assert cut("日本語", 5) == "日本…" and cut("abc", 3) == "abc"


def test_progress_line():
    """The progress line has bar, steps, loss, speed and time left, and fits the terminal by being cut."""
    status = JobStatus(
        7, "t", "", State.RUNNING, step=50, total_steps=200, loss=2.5, tokens_per_s=12345.0, eta_s=90.0, phase="save"
    )
    assert progress_text(status) == "█████░░░░░░░░░░░░░░░  25% step 50/200 · loss 2.500 · 12.3k tok/s · 1m 30s left · save"


def test_screen_redraws_below_the_lines(monkeypatch):
    """On a terminal the progress line is erased before each line and drawn again; elsewhere it never appears."""
    from io import StringIO

    monkeypatch.setenv("COLUMNS", "20")
    both = StringIO()
    screen = Screen(both, both, live=True)
    screen.progress("working")
    screen.lines(["line"])
    screen.progress("x" * 50)
    screen.close()
    assert both.getvalue() == "working\r\x1b[2Kline\n" + "x" * 18 + "…" + "\r\x1b[2K"
    plain = StringIO()
    Screen(plain, plain).progress("working")
    assert plain.getvalue() == ""


def test_saves_are_told_and_counted_by_tier():
    """Saves of another tier are named, and each tier is counted apart."""
    events = [
        event(1, "checkpoint.saved", step=10, evidence={"tier": "shared"}),
        event(2, "checkpoint.saved", step=10, evidence={"tier": "object"}),
        event(3, "checkpoint.saved", step=20, evidence={"tier": "object"}),
        event(4, "checkpoint.flushed", step=25, reason="saved from memory", evidence={"tier": "shared"}),
    ]
    report = make_report(STATUS, events, Metrics(()))

    assert ["checkpoint saved at step 10", "2 checkpoints saved to object, steps 10 to 20",
            "memory saved at step 25: saved from memory"] == [entry.what for entry in report.timeline]
    assert (1, {"shared": 1, "object": 2}) == (report.checkpoints, report.saves)


def test_describe_shows_tiers_that_are_out_of_order():
    """A tier that is degraded is shown with its reason until it works again or the job starts anew."""
    down = event(2, "checkpoint.degraded", reason="object: it is gone", evidence={"tier": "object"})
    back = event(3, "checkpoint.recovered", evidence={"tier": "object"})

    assert {"object": "object: it is gone"} == degraded_tiers([event(1, "job.started"), down])
    assert {} == degraded_tiers([down, back])
    assert {} == degraded_tiers([down, event(3, "job.started")])
    assert {} == degraded_tiers([down, event(3, "checkpoint.saved", evidence={"tier": "object"})])


def test_a_save_that_two_processes_tell_of_is_one():
    """The writer tells when it has committed, rank 0 when it hears of that; another tier's save is another."""
    saved = {"checkpoint": "step-00000010.i000", "tier": "shared"}
    writer, trainer = event(1, "checkpoint.saved", evidence=saved), event(2, "checkpoint.saved", evidence=saved)
    other = event(3, "checkpoint.saved", evidence={**saved, "tier": "object"})
    nameless = [event(4, "checkpoint.saved"), event(5, "checkpoint.saved")]

    assert [writer, other, *nameless] == merge([[trainer, other], [writer], nameless])
