"""The real adapter asks politely: clean environment, timeouts, bounded retries, and never a second submission."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.errors import ControllerDownError, JobStateError, NotFoundError, SlurmError, SlurmMissingError
from hpctrain.ids import JobId, NodeName
from hpctrain.process import Result
from hpctrain.slurm import parse
from hpctrain.slurm.model import JobUpdate, Submission
from hpctrain.slurm.via_cli import SlurmCli
from hpctrain.testing.fake_clock import FakeClock
from tests.unit.slurm.replay import HUNG, UNREACHABLE, Replay, answer, refused

SCRIPT = "#!/bin/sh\n#SBATCH --job-name=run\n#SBATCH --comment=token\n#SBATCH --partition=gpu\nsrun x\n"
LOST = refused("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
DOWN = refused("sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)")


class Listing:
    """A runner that answers squeue with the jobs given, and everything else from a list."""

    def __init__(self, clock: FakeClock, others: list[Result], **job: str) -> None:
        self.clock, self.others, self.job = clock, Replay(others), job

    def __call__(self, argv: list[str], **options: object) -> Result:
        if not argv[0].endswith("squeue"):
            return self.others(argv, **options)  # type: ignore[arg-type]
        if "-O" not in argv or not self.job:
            return answer()
        mark = argv[argv.index("-O") + 1].split(",")[0].removeprefix("JobID:")
        row = dict.fromkeys(parse.JOB_FIELDS, "") | {
            "JobID": "7", "State": "PENDING", "NumNodes": "1", "PriorityLong": "1", "SubmitTime": str(int(self.clock.now)),
        }  # fmt: skip
        return answer("".join(f"{(row | self.job)[name]}{mark}" for name in parse.JOB_FIELDS) + "\n")


@pytest.fixture
def clock() -> FakeClock:
    """Retries take no time."""
    return FakeClock()


@pytest.fixture
def submission(ugly_dir: Path) -> Submission:
    """A job in a directory of its own."""
    return Submission(SCRIPT, str(ugly_dir), {"EXTRA": "1"})


def adapter(runner: Replay | Listing, clock: FakeClock, **options: object) -> SlurmCli:
    env = {"SLURM_CONF": "/c", "PATH": "/bin"}
    return SlurmCli(env, runner=runner, clock=clock, uid=1000, **options)  # type: ignore[arg-type]


def test_variables_that_change_the_output_are_left_out(clock: FakeClock) -> None:
    """Only those Slurm variables stay that say which cluster and who we are."""
    runner = Replay([answer()])
    kept, dropped = {"SLURM_CONF": "/c", "SLURM_JWT": "t", "HOME": "/h"}, {"SQUEUE_FORMAT": "%i", "SLURM_CLUSTERS": "x"}
    SlurmCli(kept | dropped, runner=runner, clock=clock, uid=1000).jobs()
    assert runner.calls[0].env == kept | {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}


def test_every_call_has_the_timeout(clock: FakeClock) -> None:
    """The caller's bound holds for each command."""
    runner = Replay([answer()])
    slurm = adapter(runner, clock, timeout_s=3.5)
    slurm.jobs()
    slurm.nodes()
    slurm.partitions()
    slurm.release(JobId(1))
    assert {call.timeout_s for call in runner.calls} == {3.5}


def test_submission_sends_the_script_and_leaves_the_jobs_environment_alone(clock: FakeClock, submission: Submission) -> None:
    """The script goes to standard input; SBATCH_* and our own reading aids do not reach the job."""
    runner = Replay([answer("42;cluster\n")])
    env = {"SLURM_CONF": "/c", "SBATCH_PARTITION": "debug", "SLURM_MEM_PER_NODE": "1", "LANG": "de_DE.UTF-8"}
    assert SlurmCli(env, runner=runner, clock=clock).submit(submission) == 42
    (call,) = runner.calls
    assert call.argv[1:] == ["--parsable"]
    assert (call.stdin, call.cwd) == (SCRIPT, submission.work_dir)
    assert call.env == {"SLURM_CONF": "/c", "LANG": "de_DE.UTF-8", "EXTRA": "1"}


@pytest.mark.parametrize(("said", "job_id"), [("7\n", 7), ("7;c\n", 7), ("hello\n7\n", 7), ("quota 5\n12;prod\n", 12)])
def test_job_id_is_the_last_line(clock: FakeClock, submission: Submission, said: str, job_id: int) -> None:
    """A site's submission plugin may talk before the id."""
    assert adapter(Replay([answer(said)]), clock).submit(submission) == job_id


def test_answer_without_a_job_id_is_an_error(clock: FakeClock, submission: Submission) -> None:
    """Nothing counts as submitted without an id."""
    with pytest.raises(SlurmError, match="no job id"):
        adapter(Replay([answer("Submitted, thanks\n")]), clock).submit(submission)


def test_missing_working_directory_is_named(clock: FakeClock) -> None:
    """Sbatch is not even started."""
    runner = Replay([answer("1\n")])
    with pytest.raises(NotFoundError, match="/nonexistent/dir"):
        adapter(runner, clock).submit(Submission(SCRIPT, "/nonexistent/dir"))
    assert runner.calls == []


def test_refused_connection_is_retried_until_the_controller_is_back(clock: FakeClock, submission: Submission) -> None:
    """A request that never arrived may be sent again, after growing pauses that are announced."""
    runner, announced = Replay([DOWN, DOWN, answer("9\n")]), []
    assert adapter(runner, clock, announce=announced.append).submit(submission) == 9
    assert runner.programs == ["sbatch"] * 3
    assert clock.sleeps == [1.0, 2.0]
    assert "trying again in 2 s" in announced[1]


@pytest.mark.parametrize("lost", [LOST, HUNG], ids=["socket", "hung"])
def test_lost_answer_finds_the_job_and_submits_no_other(clock: FakeClock, submission: Submission, lost: Result) -> None:
    """The job is there: its id is returned, and sbatch ran once."""
    runner = Listing(clock, [lost, answer("99\n")], Name="run", Comment="token", WorkDir=submission.work_dir)
    assert adapter(runner, clock).submit(submission) == 7
    assert runner.others.programs == ["sbatch"]


@pytest.mark.parametrize(
    "other",
    [{"Name": "other"}, {"Comment": "other"}, {"WorkDir": "/other"}, {"SubmitTime": "1000"}],
    ids=["name", "comment", "directory", "time"],
)
def test_lost_answer_takes_no_other_job(clock: FakeClock, submission: Submission, other: dict[str, str]) -> None:
    """A job that differs in anything is not ours; then the error says that nobody knows."""
    ours = {"Name": "run", "Comment": "token", "WorkDir": submission.work_dir}
    runner = Listing(clock, [LOST, answer("99\n")], **{**ours, **other})
    with pytest.raises(ControllerDownError, match="may still accept") as caught:
        adapter(runner, clock).submit(submission)
    assert "squeue" in caught.value.advice
    assert runner.others.programs == ["sbatch"]


def test_controller_that_stays_away_leaves_nothing_submitted(clock: FakeClock, submission: Submission) -> None:
    """Bounded: four tries, then an error that says that nothing was submitted."""
    runner = Replay([DOWN])
    with pytest.raises(ControllerDownError, match="nothing was submitted"):
        adapter(runner, clock).submit(submission)
    assert len(runner.calls) == 4


def test_reads_are_retried_and_then_fail_with_the_count(clock: FakeClock) -> None:
    """The message tells how long and how often it was tried."""
    runner = Replay([HUNG, UNREACHABLE, HUNG])
    with pytest.raises(ControllerDownError, match=r"within 2 s .*throttling.*, in 3 tries"):
        adapter(runner, clock, timeout_s=2.0, retries=2).nodes()
    assert clock.sleeps == [1.0, 2.0]


def test_pauses_grow_to_a_bound(clock: FakeClock) -> None:
    """However many retries a site sets, nobody waits longer than 15 s between two."""
    with pytest.raises(ControllerDownError):
        adapter(Replay([UNREACHABLE]), clock, retries=7).partitions()
    assert clock.sleeps == [1, 2, 4, 8, 15, 15, 15]


def test_requeue_whose_first_answer_was_lost_counts_as_done(clock: FakeClock) -> None:
    """The second try is refused because the first one worked."""
    pending = refused("Job is pending execution for job 5")
    adapter(Replay([HUNG, pending]), clock).requeue(JobId(5))
    with pytest.raises(JobStateError):
        adapter(Replay([pending]), clock).requeue(JobId(5))


def test_cancel_of_an_ended_job_runs_no_scancel(clock: FakeClock) -> None:
    """Looking first is enough."""
    runner = Listing(clock, [answer()], State="COMPLETED")
    adapter(runner, clock).cancel(JobId(7))
    assert runner.others.calls == []


def test_update_is_one_request(clock: FakeClock) -> None:
    """All changes of a job travel together; values are arguments of their own, never shell text."""
    runner = Replay([answer()])
    update = JobUpdate(start_now=True, exclude=(NodeName("n2"), NodeName("n1")), time_limit_s=61, comment="a b; rm -rf /")
    adapter(runner, clock).update_job(JobId(5), update)
    changes = ["StartTime=now", "ExcNodeList=n[1-2]", "TimeLimit=2", "Comment=a b; rm -rf /"]
    assert runner.calls[0].argv[1:] == ["update", "JobId=5", *changes]


def test_nodes_are_folded_in_one_request(clock: FakeClock) -> None:
    """Draining many nodes is one call; none is none."""
    runner = Replay([answer()])
    slurm = adapter(runner, clock)
    slurm.drain([NodeName(f"n{number}") for number in range(1, 513)], "hpctrain: x")
    slurm.drain([], "hpctrain: x")
    slurm.undrain([])
    assert [call.argv[1:] for call in runner.calls] == [["update", "NodeName=n[1-512]", "State=DRAIN", "Reason=hpctrain: x"]]


def test_very_many_ids_do_not_fill_the_command_line(clock: FakeClock) -> None:
    """Beyond a bound everything is listed and picked from."""
    runner = Listing(clock, [answer()], State="COMPLETED")
    assert [job.job_id for job in adapter(runner, clock).jobs([JobId(number) for number in range(5000)])] == [7]
    assert adapter(runner, clock).jobs([JobId(number) for number in range(5000, 11000)]) == []


def test_squeue_without_a_column_is_told_apart(clock: FakeClock) -> None:
    """A Slurm too old for a column says so, instead of being parsed wrongly."""
    odd = answer("1~2~3", stderr="squeue: error: Invalid job format specification: RestartCnt")
    with pytest.raises(SlurmError, match="RestartCnt"):
        adapter(Replay([odd]), clock).jobs()


def test_unknown_shape_of_an_answer_is_an_error_of_slurm(clock: FakeClock) -> None:
    """No traceback for text that does not parse."""
    with pytest.raises(SlurmError, match="does not parse"):
        adapter(Replay([answer("surprise")]), clock).jobs()


def test_missing_commands_are_named(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Slurm's commands the error names the package."""
    monkeypatch.setattr("hpctrain.process.find", lambda _: None)
    with pytest.raises(SlurmMissingError, match="squeue") as caught:
        adapter(Replay([answer()]), clock).jobs()
    assert "slurm-client" in caught.value.advice


def test_unusable_configuration_is_told_apart(clock: FakeClock) -> None:
    """Commands that find no cluster are not retried."""
    text = "squeue: fatal: Could not establish a configuration source"
    runner = Replay([refused(text)])
    with pytest.raises(SlurmMissingError):
        adapter(runner, clock).jobs()
    assert len(runner.calls) == 1
