"""Hours are added up from attempts, divided by what became of them, and counted once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.goodput import QUEUE, RECOVERY, STARTUP, TRAINING, Segment
from hpctrain.jobs.usage import PARTS, Facts, Hours, key_of, measure_usage
from hpctrain.jobs.usage_text import plain, render
from hpctrain.slurm.accounting import AccountedJob, Attempt, Tres, by_job
from hpctrain.slurm.model import JobState

T0, HOUR = 1_800_000_000.0, 3600.0
HELD = Tres(cpus=64, gpus=8, nodes=2)


def attempt(number: int, outcome: str, start: float | None, end: float | None, **values: object) -> Attempt:
    """An attempt on two nodes with eight GPUs, times in hours after T0; it was eligible half an hour before its start."""
    state = JobState[outcome] if outcome in JobState.__members__ else JobState.PENDING
    submit = T0 + ((start if start is not None else end or 0.5) - 0.5) * HOUR
    one = Attempt(
        JobId(number), str(number), "c", f"job{number}", "alice", "research", "main", "normal", outcome, state,
        submit_time=submit, eligible_time=submit, start_time=None if start is None else T0 + start * HOUR,
        end_time=None if end is None else T0 + end * HOUR,
        elapsed_s=0.0 if start is None or end is None else (end - start) * HOUR, held=HELD if start is not None else Tres(),
        nodes=(NodeName("n1"), NodeName("n2")) if start is not None else (),
    )  # fmt: skip
    return replace(one, **values)  # type: ignore[arg-type]


def day(jobs: list[AccountedJob], by: str = "user", facts: Facts | None = None):
    """Usage of the day after T0."""
    return measure_usage(jobs, since=T0, until=T0 + 24 * HOUR, by=by, facts=facts)


AT_ONCE = {"submit_time": T0 + 2 * HOUR, "eligible_time": T0 + 2 * HOUR}
REQUEUED = [attempt(1, "PREEMPTED", 1, 2), attempt(1, "COMPLETED", 3, 6, **AT_ONCE)]


def test_requeued_job_counts_once_with_all_its_hours() -> None:
    """One job, two attempts, one requeue; the hours of both; the wait of both."""
    (row,) = day(by_job(REQUEUED)).rows
    assert (row.key, row.jobs, row.attempts, row.requeues, row.starts) == ("alice", 1, 2, 1, 2)
    assert row.hours == Hours(8 * 4, 64 * 4, 2 * 4)
    assert row.queue_s == 1.5 * HOUR
    assert (row.parts["requeued"].gpu, row.parts["completed"].gpu) == (8, 24)
    assert row.outcomes == {"PREEMPTED": 1, "COMPLETED": 1}
    assert row.goodput is None


@pytest.mark.parametrize(
    ("outcome", "part"),
    [("FAILED", "failed"), ("NODE_FAIL", "failed"), ("TIMEOUT", "failed"), ("OUT_OF_MEMORY", "failed"),
     ("CANCELLED", "cancelled"), ("COMPLETED", "completed"), ("PREEMPTED", "failed"), ("REQUEUED", "requeued")],
)  # fmt: skip
def test_hours_go_where_the_attempt_ended(outcome: str, part: str) -> None:
    """What is not measured is told from Slurm's word."""
    (row,) = day(by_job([attempt(1, outcome, 1, 2)])).rows
    assert row.parts == {part: Hours(8, 64, 2)}


def test_running_job_counts_until_now_and_a_runaway_does_not() -> None:
    """A job that runs in the database only would grow for ever."""
    jobs = by_job([attempt(1, "RUNNING", 20, None), attempt(2, "RUNNING", 20, None)])
    (row,) = day(jobs, facts=Facts(runaways=frozenset({JobId(2)}))).rows
    assert row.parts["running"] == Hours(8 * 4, 64 * 4, 2 * 4)
    assert row.jobs == 2


def test_window_cuts() -> None:
    """Only what lies inside counts; what does not touch the window is not there at all."""
    jobs = by_job([attempt(1, "COMPLETED", -3, 2), attempt(2, "COMPLETED", 23, 30), attempt(3, "COMPLETED", -9, -8)])
    usage = day(jobs)
    assert usage.total.jobs == 2
    assert usage.total.hours.gpu == 8 * 3


MEASURED = (
    Segment(T0 + 0.5 * HOUR, T0 + 1 * HOUR, QUEUE), Segment(T0 + 1 * HOUR, T0 + 1.5 * HOUR, STARTUP),
    Segment(T0 + 1.5 * HOUR, T0 + 2 * HOUR, TRAINING), Segment(T0 + 2 * HOUR, T0 + 3 * HOUR, QUEUE),
    Segment(T0 + 3 * HOUR, T0 + 4 * HOUR, RECOVERY), Segment(T0 + 4 * HOUR, T0 + 6 * HOUR, TRAINING),
)  # fmt: skip


def test_measured_runs_say_what_became_of_their_hours() -> None:
    """Shares of the run's own time on nodes; goodput is the share that was training."""
    (job,) = by_job(REQUEUED)
    facts = Facts({key_of(job): "tiny-1"}, {key_of(job): MEASURED})
    (row,) = day([job], by="run", facts=facts).rows
    assert row.key == "tiny-1"
    assert row.hours.gpu == pytest.approx(32)
    assert row.goodput == pytest.approx(2.5 / 4)
    assert row.parts[TRAINING].gpu == pytest.approx(20)
    lost = row.to_json()["lost"]
    assert (lost["failures"]["gpu_hours"], lost["idle"]["gpu_hours"], lost["requeues"]["gpu_hours"]) == (8, 4, 0)


@pytest.mark.parametrize(
    ("by", "keys"),
    [("user", {"alice", "bob"}), ("account", {"research", "(none)"}), ("partition", {"main"}), ("qos", {"normal", "high"}),
     ("state", {"COMPLETED", "PREEMPTED"}), ("run", {"job1", "tiny"})],
)  # fmt: skip
def test_rows_by_everything(by: str, keys: set[str]) -> None:
    """A row for each value; the total has every hour once and every job once."""
    second = attempt(2, "COMPLETED", 1, 2, user="bob", account="", qos="high", comment="hpctrain:tiny")
    usage = day(by_job([*REQUEUED, second]), by)
    assert {row.key for row in usage.rows} == keys
    assert usage.total.jobs == 2
    assert usage.total.hours == sum((row.hours for row in usage.rows), Hours()) == Hours(40, 320, 10)


def test_rows_with_the_most_hours_come_first() -> None:
    """The largest consumer is what one looks for."""
    jobs = by_job([attempt(1, "COMPLETED", 1, 2, user="small"), attempt(2, "COMPLETED", 1, 9, user="large")])
    assert [row.key for row in day(jobs).rows] == ["large", "small"]


def test_jobs_with_a_number_given_out_again_are_two() -> None:
    """Segments and names belong to one of them."""
    jobs = by_job([attempt(1, "COMPLETED", 1, 2), attempt(1, "COMPLETED", 8, 9, name="other")])
    facts = Facts(segments={key_of(jobs[0]): (Segment(T0 + HOUR, T0 + 2 * HOUR, TRAINING),)})
    (row,) = day(jobs, facts=facts).rows
    assert row.jobs == 2
    assert (row.measured.gpu, row.parts["completed"].gpu) == (8, 8)


def test_nothing_is_an_empty_table() -> None:
    """No job, no row, no division by nothing."""
    usage = day([])
    assert (usage.rows, usage.total.jobs, usage.total.goodput, usage.unit) == ((), 0, None, "node-hours")


def test_waiting_job_has_no_hours() -> None:
    """It waits, and holds nothing."""
    (row,) = day(by_job([attempt(1, "PENDING", None, None)])).rows
    assert (row.jobs, row.starts, row.hours) == (1, 0, Hours())
    assert row.queue_s == 24 * HOUR


SPAN = st.tuples(st.floats(-30, 30), st.floats(0, 30), st.sampled_from(["COMPLETED", "FAILED", "REQUEUED"]))


@given(st.lists(SPAN, max_size=8))
def test_parts_are_all_hours_and_never_more_than_the_window(spans: list[tuple[float, float, str]]) -> None:
    """Whatever the jobs: the parts add up, none is negative, and no job has more than its share of the window."""
    jobs = by_job([attempt(index, word, start, start + long) for index, (start, long, word) in enumerate(spans, start=1)])
    total = day(jobs).total
    assert total.hours.gpu == pytest.approx(sum(hours.gpu for hours in total.parts.values()))
    assert set(total.parts) <= set(PARTS)
    assert all(hours.gpu >= 0 for hours in total.parts.values())
    assert total.hours.node <= 2 * 24 * max(1, len(spans)) + 1e-6


def test_text_has_rows_total_and_what_was_lost() -> None:
    """A person sees who used what, what became of it, and the loss."""
    second = attempt(2, "FAILED", 1, 2, user="bob")
    text = render(day(by_job([*REQUEUED, second])), width=None)
    head, first, other, total, *rest = text.splitlines()
    assert head.split()[:3] == ["USER", "JOBS", "REQUEUES"]
    assert first.split()[:4] == ["alice", "1", "1", "32.0"]
    assert other.split()[:4] == ["bob", "1", "0", "8.00"]
    assert total.split()[:4] == ["total", "2", "1", "40.0"]
    assert "Lost: 8.00 to failures, 8.00 before requeues (40.0% of all)" in rest
    assert "Of 40.0 GPU-hours:" in rest


def test_text_says_what_nobody_used() -> None:
    """Where everybody's jobs are known, the rest of the nodes was nobody's."""
    text = render(day(by_job(REQUEUED)), width=80, capacity=Hours(16 * 24, 128 * 24, 4 * 24))
    assert "Used: 8.3% of 384 GPU-hours that the 4 nodes Slurm has now could give; 352 were nobody's" in text


def test_names_cannot_steer_a_terminal() -> None:
    """A job's name is whatever its user wrote."""
    usage = day(by_job([attempt(1, "COMPLETED", 1, 2, name="a\x1b[2Jb\nc")]), "run")
    assert "\x1b" not in render(usage, width=None)
    assert plain("a\nb") == "a b"
