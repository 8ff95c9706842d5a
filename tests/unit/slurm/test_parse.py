"""Slurm's text becomes the same values whatever version printed it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.slurm import parse
from hpctrain.slurm.model import Job, JobState

GOLDEN = Path(__file__).parents[2] / "golden/slurm"
MARK = "~golden~"
HOSTILE = 'pipe|and\nnewline $(false) ~golden é "q"'


@pytest.fixture(params=sorted(path.name for path in GOLDEN.iterdir() if path.is_dir()))
def golden(request: pytest.FixtureRequest) -> Path:
    """Recordings of one Slurm version, made by record.sh."""
    return GOLDEN / request.param


@pytest.fixture
def jobs(golden: Path) -> dict[str, Job]:
    """The recorded jobs by name."""
    return {job.name: job for job in parse.parse_jobs((golden / "squeue.txt").read_text(), MARK)}


def test_recorded_names_and_comments_survive(jobs: dict[str, Job]) -> None:
    """A name with bars, line breaks and most of a separator does not disturb its neighbours."""
    names = {HOSTILE, "failed", "killed", "requeued", "requeue-held", "cancelled", "completed", "held", "huge"}
    # The job whose script Slurm refused may be listed too, as "sbatch".
    assert set(jobs) - {"sbatch"} == names
    assert jobs[HOSTILE].comment == "State=IDLE |\n x=y\tz é"
    assert jobs["failed"].comment == ""


def test_recorded_states_and_exits(jobs: dict[str, Job]) -> None:
    """Base state, exit status and signal of each kind of end."""
    ends = {name: (job.state, job.exit_code, job.exit_signal) for name, job in jobs.items()}
    assert ends["failed"] == (JobState.FAILED, 3, 0)
    assert ends["killed"][::2] == (JobState.FAILED, 9)
    assert ends["completed"] == (JobState.COMPLETED, 0, 0)
    assert ends["cancelled"][0] is JobState.CANCELLED
    assert ends[HOSTILE] == (JobState.RUNNING, None, 0)


def test_recorded_running_job(jobs: dict[str, Job]) -> None:
    """Nodes, batch host and times of a running job."""
    job = jobs[HOSTILE]
    assert job.nodes == ("n1",)
    assert job.batch_host == "n1"
    assert job.start_time is not None
    assert job.time_limit_s is not None
    assert job.end_time == job.start_time + job.time_limit_s


def test_recorded_requeues_and_holds(jobs: dict[str, Job]) -> None:
    """A requeued job waits for its begin time; requeued-and-held and held jobs say that they are held."""
    assert (jobs["requeued"].state, jobs["requeued"].reason) == (JobState.PENDING, "BeginTime")
    assert (jobs["requeued"].restarts, jobs["requeued"].held, jobs["requeued"].nodes) == (1, False, ())
    assert jobs["requeue-held"].held
    assert "REQUEUE_HOLD" in jobs["requeue-held"].flags
    assert jobs["held"].held
    assert jobs["held"].time_limit_s == ((24 + 2) * 60 + 4) * 60  # 1-02:03:04, rounded up to minutes by Slurm
    assert jobs["huge"].time_limit_s is None
    assert not jobs["huge"].held


def test_recorded_completing_job_still_has_its_nodes(golden: Path) -> None:
    """While COMPLETING hides the base state, a job counts as running: its nodes are not free."""
    jobs = {job.name: job for job in parse.parse_jobs((golden / "squeue-completing.txt").read_text(), MARK)}
    completing = [job for job in jobs.values() if "COMPLETING" in job.flags]
    assert all(job.state is JobState.RUNNING and job.nodes for job in completing)


def test_recorded_exclusions(golden: Path, jobs: dict[str, Job]) -> None:
    """Excluded nodes by job."""
    excluded = parse.parse_exclusions((golden / "squeue-exclusions.txt").read_text(), MARK)
    assert excluded[jobs["requeued"].job_id] == ("n1",)
    assert excluded[jobs["held"].job_id] == ()


def test_recorded_nodes(golden: Path) -> None:
    """Hardware, state, flags and the reason with its author and time."""
    nodes = {node.name: node for node in parse.parse_nodes((golden / "nodes.txt").read_text())}
    assert list(nodes) == ["n1", "n2", "n3", "n4"]
    assert all((node.gpus, node.gpu_type, node.cpus, node.memory_mib) == (8, "sim", 64, 256000) for node in nodes.values())
    assert nodes["n1"].gpus_allocated == 3
    assert nodes["n1"].available
    assert nodes["n2"].drained
    assert nodes["n2"].reason == "hpctrain: xid 79 [b@c] State=IDLE Gres=gpu:9 é"
    assert nodes["n2"].reason_user == "root"
    assert abs((nodes["n2"].reason_time or 0) - time.time()) < 10 * 365 * 86400
    assert (nodes["n3"].state, nodes["n3"].reason, nodes["n3"].available) == ("DOWN", "broken", False)
    assert nodes["n4"].reason == ""
    assert nodes["n4"].partitions == ("main",)


def test_recorded_partitions(golden: Path) -> None:
    """The private cluster's one partition."""
    (main,) = parse.parse_partitions((golden / "partitions.txt").read_text())
    assert (main.name, main.is_default, main.up, main.max_time_s, main.default_time_s) == ("main", True, True, None, 3600)
    assert main.nodes == ("n1", "n2", "n3", "n4")


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=5))
def test_any_name_and_comment_survive(texts: list[tuple[str, str]]) -> None:
    """With a separator that they do not contain, no text can break the listing."""
    mark = "~5f3a99c0~"
    row = dict.fromkeys(parse.JOB_FIELDS, "") | {"JobID": "7", "State": "PENDING", "NumNodes": "1", "PriorityLong": "1"}
    rows = [row | {"Name": name, "Comment": comment} for name, comment in texts]
    text = "".join("".join(f"{row[field]}{mark}" for field in parse.JOB_FIELDS) + "\n" for row in rows)
    jobs = parse.parse_jobs(text, mark)
    assert [job.name for job in jobs] == [name for name, _ in texts]
    assert [job.comment for job in jobs] == ["" if comment == "(null)" else comment for _, comment in texts]


def test_truncated_listing_is_an_error(golden: Path) -> None:
    """Half an answer is refused, never taken for fewer jobs."""
    text = (golden / "squeue.txt").read_text()
    with pytest.raises(ValueError, match="cut off"):
        parse.parse_jobs(text[: len(text) // 2], MARK)


@pytest.mark.parametrize(
    ("word", "state", "flags"),
    [
        ("RUNNING", JobState.RUNNING, set()),
        ("COMPLETING", JobState.RUNNING, {"COMPLETING"}),
        ("CONFIGURING", JobState.RUNNING, {"CONFIGURING"}),
        ("REQUEUE_HOLD", JobState.PENDING, {"REQUEUE_HOLD"}),
        ("SPECIAL_EXIT", JobState.PENDING, {"SPECIAL_EXIT"}),
        ("CANCELLED by 1000", JobState.CANCELLED, set()),
        ("NODE_FAIL", JobState.NODE_FAIL, set()),
        ("PENDING,REQUEUED", JobState.PENDING, {"REQUEUED"}),
        ("REVOKED", JobState.CANCELLED, {"REVOKED"}),
        ("SOMETHING_NEW", JobState.UNKNOWN, {"SOMETHING_NEW"}),
    ],
)
def test_state_words(word: str, state: JobState, flags: set[str]) -> None:
    """A flag goes with its base state; a word of a later Slurm is UNKNOWN, not an error."""
    assert parse.parse_state(word) == (state, flags)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800), ("2:00", 120), ("1:30:00", 5400), ("1-02:03:04", 93784), ("2-00", 172800), ("1-01:30", 91800),
        ("00:30:00", 1800), ("UNLIMITED", None), ("INFINITE", None), ("Partition_Limit", None), ("NOT_SET", None),
    ],
)  # fmt: skip
def test_time_limits(text: str, seconds: int | None) -> None:
    """Every form of sbatch's --time, and the words for none."""
    assert parse.parse_limit(text) == seconds


def test_times_are_epochs_or_local() -> None:
    """SLURM_TIME_FORMAT=%s gives epochs; a Slurm that ignores it gives local ISO times."""
    assert parse.parse_time("1795227261") == 1795227261.0
    local = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(1795227261))
    assert parse.parse_time(local) == 1795227261.0
    assert [parse.parse_time(word) for word in ("N/A", "None", "Unknown", "", "0", "(null)")] == [None] * 6


@pytest.mark.parametrize(
    ("text", "end"),
    [("0", (0, 0)), ("768", (3, 0)), ("9", (0, 9)), ("139", (0, 11)), ("3:0", (3, 0)), ("0:15", (0, 15))],
)
def test_exit_statuses(text: str, end: tuple[int, int]) -> None:
    """Wait statuses (with or without a core file) and status:signal."""
    assert parse.parse_exit(text) == end


@pytest.mark.parametrize(
    ("text", "gpus"),
    [
        ("gpu:sim:8(S:0-1)", (8, "sim")), ("gpu:8", (8, "")), ("gpu", (1, "")), ("", (0, "")), ("(null)", (0, "")),
        ("gpu:h100:4,gpu:a100:2", (6, "h100")), ("gpu:a100:2(S:0),gpu:h100:4(S:0,2)", (6, "h100")),
        ("gpu:h100:4(S:0,2),shard:h100:16,mps:400", (4, "h100")), ("gpu:1g.10gb:7", (7, "1g.10gb")),
        ("gpu:sim:2(IDX:0-1)", (2, "sim")), ("gpu:a100:no_consume:4", (4, "a100")), ("shard:8", (0, "")),
    ],
)  # fmt: skip
def test_gres_texts(text: str, gpus: tuple[int, str]) -> None:
    """Counts add up over types, other resources do not count."""
    assert parse.parse_gpus(text) == gpus


@pytest.mark.parametrize(
    ("state", "base", "flags"),
    [
        ("IDLE+DRAIN", "IDLE", {"DRAIN"}),
        ("MIXED+DRAIN+NOT_RESPONDING", "MIXED", {"DRAIN", "NOT_RESPONDING"}),
        ("DOWN*+DRAIN", "DOWN", {"DRAIN", "NOT_RESPONDING"}),
        ("IDLE~", "IDLE", {"POWERED_DOWN"}),
        ("ALLOCATED+COMPLETING", "ALLOCATED", {"COMPLETING"}),
        ("INVALID", "UNKNOWN", {"INVALID"}),
    ],
)
def test_node_states(state: str, base: str, flags: set[str]) -> None:
    """Flags in words, or as the marks that older versions put behind the state."""
    (node,) = parse.parse_nodes(f"NodeName=n1 CPUTot=1 State={state} Partitions=a,b \n")
    assert (node.state, node.flags, node.partitions) == (base, flags, ("a", "b"))


def test_reason_may_be_followed_by_more_keys() -> None:
    """Later versions write a comment behind the reason; a reason from slurm.conf has no author."""
    line = "NodeName=n1 State=DOWN Reason=bad [x] fan [ops@2026-11-21T02:11:33] Comment=hello there\n"
    (node,) = parse.parse_nodes(line)
    assert (node.reason, node.reason_user) == ("bad [x] fan", "ops")
    assert node.reason_time is not None
    (node,) = parse.parse_nodes("NodeName=n1 State=DOWN Reason=not here\n")
    assert (node.reason, node.reason_user, node.reason_time) == ("not here", "", None)


def test_reason_of_a_node_in_service_is_history() -> None:
    """Slurm 24.11 shows the last reason after an undrain; it must not be taken for a present one."""
    (node,) = parse.parse_nodes("NodeName=n1 State=IDLE+NOT_RESPONDING Reason=hpctrain: old [root@5]\n")
    assert (node.reason, node.reason_user, node.reason_time) == ("", "", None)


def test_reason_with_a_line_break_does_not_make_a_node() -> None:
    """What begins a record is a node's name."""
    text = "NodeName=n1 State=DOWN Reason=first\nsecond [root@5]\nNodeName=n2 State=IDLE\n"
    first, second = parse.parse_nodes(text)
    assert (first.name, first.reason, second.name, second.reason) == ("n1", "first\nsecond", "n2", "")


def test_allocated_gpus_fall_back_on_tracked_resources() -> None:
    """Without GresUsed the trackable resources tell, where the site tracks GPUs."""
    (node,) = parse.parse_nodes("NodeName=n1 State=MIXED Gres=gpu:h100:8 AllocTRES=cpu=4,gres/gpu=3,gres/gpu:h100=3\n")
    assert node.gpus_allocated == 3
