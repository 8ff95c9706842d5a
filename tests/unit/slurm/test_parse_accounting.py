"""sacct's text becomes the same values whatever version printed it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.slurm.accounting import AccountedJob, Tres, by_job
from hpctrain.slurm.model import JobState
from hpctrain.slurm.parse_accounting import COLUMNS, parse_attempts, parse_tres

GOLDEN = Path(__file__).parents[2] / "golden/slurm"
MARK = "~golden~"
HOSTILE = "pipe|and\nnewline $(false) ~golden é `q`"
"""Slurm keeps quotes as backquotes."""
RECORDED = sorted(path.parent.parent.name for path in GOLDEN.glob("*/accounting/sacct.txt"))


@pytest.fixture(params=RECORDED)
def golden(request: pytest.FixtureRequest) -> Path:
    """Recordings of one Slurm version, made by scripts/record_slurm_outputs.sh."""
    return GOLDEN / request.param / "accounting"


@pytest.fixture
def jobs(golden: Path) -> dict[str, AccountedJob]:
    """The recorded jobs by name; of arrays and heterogeneous jobs any part."""
    return {job.name: job for job in by_job(parse_attempts((golden / "sacct.txt").read_text(), MARK))}


def test_every_version_in_use_is_recorded() -> None:
    """The oldest, the usual and the newest Slurm that hpctrain is built for."""
    assert [name[:5] for name in RECORDED] == ["22.05", "24.11", "26.05"]


def test_recorded_ends(jobs: dict[str, AccountedJob]) -> None:
    """State, exit status and signal of each kind of end."""
    ends = {name: (job.newest.state, job.newest.exit_code, job.newest.exit_signal) for name, job in jobs.items()}
    assert ends["completed"] == (JobState.COMPLETED, 0, 0)
    assert ends["failed"] == (JobState.FAILED, 3, 0)
    assert (ends["killed"][0], ends["killed"][2]) == (JobState.FAILED, 9)
    assert ends["timeout"][0] is JobState.TIMEOUT
    assert ends["cancelled"][0] is JobState.CANCELLED
    assert jobs["cancelled"].newest.cancelled_by == "0"
    assert ends["lost"][0] is JobState.NODE_FAIL
    # Killed by Slurm's own polling; OUT_OF_MEMORY takes a cgroup, which a private cluster has not got.
    assert ends["memory"][0] in (JobState.OUT_OF_MEMORY, JobState.FAILED, JobState.CANCELLED)
    assert jobs["running"].newest.live
    assert jobs["running"].newest.exit_code is None


def test_recorded_requeues_are_attempts_of_one_job(jobs: dict[str, AccountedJob]) -> None:
    """Requeued, preempted and lost with a node: each is one job with two attempts."""
    words = {name: [one.outcome for one in jobs[name].attempts] for name in ("requeued", "victim", "lost-requeued")}
    assert words["requeued"] == ["REQUEUED", "COMPLETED"]
    assert words["victim"] == ["PREEMPTED", "COMPLETED"]
    assert (words["lost-requeued"][0], words["lost-requeued"][-1]) == ("NODE_FAIL", "PENDING")
    first, second = jobs["requeued"].attempts
    assert first.end_time is not None
    assert second.submit_time is not None
    assert 0 <= second.submit_time - first.end_time <= 2
    assert not jobs["victim-waiting"].over(first.end_time + 1e6, in_queue=True)


def test_recorded_resources_count_once(jobs: dict[str, AccountedJob]) -> None:
    """GPUs are there in sum and by type; what never started holds nothing."""
    one = jobs["completed"].newest
    assert (one.held.gpus, one.held.cpus, one.held.nodes, one.nodes) == (4, 4, 2, ("n1", "n3"))
    assert one.account == "research"
    waiting = jobs["lost-requeued"].newest
    assert waiting.held == Tres()
    assert not waiting.ran
    assert waiting.seconds_between(0, 1e12) == 0.0


def test_recorded_jobs_that_could_never_start_are_not_there(jobs: dict[str, AccountedJob]) -> None:
    """With a window, sacct leaves out what was held from its submission to its end."""
    assert not {"cancelled-pending", "waiting-array"} & set(jobs)


def test_recorded_names_and_comments_survive(jobs: dict[str, AccountedJob]) -> None:
    """A name with bars, line breaks and most of a separator does not disturb its neighbours; the database cuts long ones."""
    assert jobs[HOSTILE].newest.comment == "State=IDLE |\n x=y\tz é"
    assert jobs["requeued"].newest.comment == "hpctrain:requeued-run"
    assert [len(name) for name in jobs if name.startswith("xxx")] == [255]


def test_recorded_arrays_and_heterogeneous_jobs_have_numbers_of_their_own(golden: Path) -> None:
    """Every task and part is a job; the label is what people see."""
    attempts = parse_attempts((golden / "sacct.txt").read_text(), MARK)
    array = [one for one in attempts if one.name == "array"]
    assert len({one.job_id for one in array}) == 3
    assert {one.label.partition("_")[2] for one in array} == {"0", "1", "2"}
    parts = [one for one in attempts if one.name == "parts" or "+" in one.label]
    assert {one.label.partition("+")[2] for one in parts} == {"0", "1"}
    assert len({one.job_id for one in parts}) == 2


def test_recorded_suspension_is_not_elapsed(jobs: dict[str, AccountedJob]) -> None:
    """Slurm's own count of seconds leaves out what the clock has not."""
    one = jobs["suspended"].newest
    assert one.start_time is not None
    assert one.end_time is not None
    assert 0 < one.elapsed_s < one.end_time - one.start_time


def test_truncated_answer_is_an_error(golden: Path) -> None:
    """Half an answer is refused, never taken for fewer jobs."""
    text = (golden / "sacct.txt").read_text()
    with pytest.raises(ValueError, match="sacct's answer is cut off"):
        parse_attempts(text[: len(text) // 2], MARK)


@pytest.mark.parametrize(
    ("text", "tres"),
    [
        ("billing=8,cpu=8,gres/gpu=8,gres/gpu:h100=8,mem=64G,node=1", Tres(8, 8, "h100", 65536, 1)),
        ("cpu=4,gres/gpu:a100=2,gres/gpu:h100=4,mem=1000M,node=2", Tres(4, 6, "h100", 1000, 2)),
        ("cpu=4,gres/gpu=6,gres/gpu:a100=2,gres/gpu:h100=4,node=2", Tres(4, 6, "h100", 0, 2)),
        ("cpu=1,gres/gpumem=80G,gres/gpuutil=99,gres/shard=16,mem=1T", Tres(1, 0, "", 1024**2, 0)),
        ("gres/gpu:1g.10gb=7,gres/gpu=7", Tres(0, 7, "1g.10gb", 0, 0)),
        ("cpu=1.5K,mem=2048K,node=1", Tres(1500, 0, "", 2, 1)),
        ("", Tres()), ("cpu=,mem=?,node=x,,=", Tres()),
    ],
)  # fmt: skip
def test_resources(text: str, tres: Tres) -> None:
    """Typed and untyped counts are the same GPUs; usage of GPUs and shards are none."""
    assert parse_tres(text) == tres


ROW = dict.fromkeys(COLUMNS, "") | {"JobIDRaw": "7", "JobID": "7", "State": "COMPLETED"}


def told(**values: str) -> str:
    """Text of one record, as sacct prints it."""
    return "".join(f"{(ROW | values)[name]}{MARK}" for name in COLUMNS) + "\n"


@pytest.mark.parametrize("word", ["Unknown", "None", "", "INVALID", "N/A"])
def test_odd_words_are_nothing(word: str) -> None:
    """What has not happened, or was lost, has many names."""
    text = told(Start=word, End=word, Submit=word, ElapsedRaw=word, TimelimitRaw="UNLIMITED", NodeList="None assigned")
    (one,) = parse_attempts(text, MARK)
    assert (one.start_time, one.end_time, one.submit_time, one.elapsed_s) == (None, None, None, 0.0)
    assert (one.time_limit_s, one.nodes) == (None, ())


def test_invalid_elapsed_is_made_from_the_times() -> None:
    """Both times are known, so that the difference is, too."""
    (one,) = parse_attempts(told(Start="1800000000", End="1800000060", ElapsedRaw="INVALID"), MARK)
    assert one.elapsed_s == 60.0


def test_node_list_that_does_not_parse_hides_nothing_else() -> None:
    """A record of another age keeps its hours."""
    (one,) = parse_attempts(told(NodeList="n[1-", AllocTRES="cpu=2,node=3", Start="1800000000", End="1800003600"), MARK)
    assert (one.nodes, one.held.nodes, one.elapsed_s) == ((), 3, 3600.0)


@pytest.mark.parametrize(
    ("word", "outcome", "state", "by"),
    [
        ("CANCELLED by 1000", "CANCELLED", JobState.CANCELLED, "1000"), ("REQUEUED", "REQUEUED", JobState.PENDING, ""),
        ("PREEMPTED", "PREEMPTED", JobState.PREEMPTED, ""), ("NEW_WORD", "NEW_WORD", JobState.UNKNOWN, ""),
        ("", "UNKNOWN", JobState.UNKNOWN, ""),
    ],
)  # fmt: skip
def test_state_words(word: str, outcome: str, state: JobState, by: str) -> None:
    """Slurm's word is kept, beside the state that it means in the queue."""
    (one,) = parse_attempts(told(State=word), MARK)
    assert (one.outcome, one.state, one.cancelled_by) == (outcome, state, by)


def test_steps_are_left_out() -> None:
    """Should a Slurm list a step in spite of being asked not to, it is no job."""
    assert parse_attempts(told(JobIDRaw="7.batch", JobID="7.batch"), MARK) == []


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=4))
def test_any_name_and_comment_survive(texts: list[tuple[str, str]]) -> None:
    """With a separator that they do not contain, no text can break the listing."""
    mark = "~5f3a99c0~"
    rows = [ROW | {"JobName": name, "Comment": comment} for name, comment in texts]
    text = "".join("".join(f"{row[name]}{mark}" for name in COLUMNS) + "\n" for row in rows)
    assert [one.name for one in parse_attempts(text, mark)] == [name for name, _ in texts]
