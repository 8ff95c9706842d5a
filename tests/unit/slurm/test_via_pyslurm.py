"""The pyslurm adapter and its helper process, with a stand-in for pyslurm that misbehaves on request.

What real pyslurm does is held by ``tests/contract``, which runs in the image (``tests/docker/test_pyslurm.py``).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hpctrain.errors import ControllerDownError, JobStateError, MissingDependencyError, NoSuchJobError
from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import Job, JobState, JobUpdate, Submission
from hpctrain.slurm.pyslurm_calls import GIVE_UP_AFTER
from hpctrain.slurm.pyslurm_helper import COMMAND, Helper
from hpctrain.slurm.via_pyslurm import misfit
from hpctrain.slurm.via_pyslurm_client import DELEGATED, SlurmPyslurm
from hpctrain.testing.fake_clock import FakeClock
from tests.source_tree import ROOT

FAKE = ROOT / "tests/unit/slurm/fake_pyslurm/pyslurm.py"
JOB = JobId(7)


class Commands:
    """Stands in for the command-line adapter: writes down what it is asked, and knows one job."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.job = Job(JOB, "train", "me", JobState.RUNNING)

    def __getattr__(self, name: str):  # type: ignore[no-untyped-def] - any call of the port
        def call(*arguments: object, **options: object) -> object:
            self.calls.append(name)
            return [self.job] if name == "jobs" else JOB

        return call


@dataclass
class Bench:
    """An adapter over the stand-in."""

    place: Path
    env: dict[str, str]
    commands: Commands = field(default_factory=Commands)
    said: list[str] = field(default_factory=list)
    helpers: list[Helper] = field(default_factory=list)

    def adapter(
        self, *, required: bool = False, timeout_s: float = 30.0, retries: int = 1,
        slurm_version: Callable[[], str] = lambda: "24.11.5",
    ) -> SlurmPyslurm:
        self.helpers.append(Helper(self.env, slurm_version))
        return SlurmPyslurm(
            self.commands, self.helpers[-1],  # type: ignore[arg-type] - stands in
            required=required, timeout_s=timeout_s, retries=retries, clock=FakeClock(), announce=self.said.append,
        )  # fmt: skip

    @property
    def helper(self) -> Helper:
        return self.helpers[-1]

    def trouble(self, *lines: str) -> None:
        (self.place / "trouble").write_text("\n".join(lines))

    def calls(self) -> list[str]:
        path = self.place / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def bench(tmp_path: Path):  # type: ignore[no-untyped-def] - a generator of Bench
    """The stand-in, installed as a package of its own."""
    package = tmp_path / "site"
    metadata = package / "pyslurm-25.11.2.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pyslurm\nVersion: 25.11.2\n")
    (package / "pyslurm.py").write_text(FAKE.read_text())
    env = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{ROOT}", "FAKE_PYSLURM": str(tmp_path)}
    made = Bench(tmp_path, env)
    yield made
    for helper in made.helpers:
        helper.close()


def test_jobs_come_through_the_helper(bench: Bench) -> None:
    """A job is read whole, and no command of Slurm is run; what a library prints does no harm."""
    slurm = bench.adapter()
    (job,) = slurm.jobs([JOB])

    assert (job.job_id, job.state, job.nodes, job.time_limit_s) == (7, JobState.RUNNING, ("n1", "n2"), 3600)
    assert slurm.jobs([JobId(99)]) == []
    assert slurm.cluster_name() == "fake"
    assert bench.commands.calls == []
    assert bench.helper.starts == 1


def test_a_text_that_is_not_utf8_hides_nothing_else(bench: Bench) -> None:
    """One job with a name from another century must not break the listing of all."""
    jobs = bench.adapter().jobs(all_users=True)

    assert [(job.job_id, job.name) for job in jobs] == [(7, "train"), (8, "\ufffd")]
    assert jobs[1].user == "4242"


def test_a_read_is_repeated_in_a_new_helper(bench: Bench) -> None:
    """A helper that is killed in the middle of a call costs the caller nothing."""
    bench.trouble("load die 1")
    slurm = bench.adapter()

    assert slurm.jobs([JOB])[0].name == "train"
    assert bench.helper.starts == 2
    assert slurm.given_up == ""


def test_a_helper_killed_between_calls_is_replaced(bench: Bench) -> None:
    """Also when nobody was waiting for it."""
    slurm = bench.adapter()
    slurm.jobs([JOB])
    assert bench.helper.pid is not None
    os.kill(bench.helper.pid, signal.SIGKILL)

    assert slurm.jobs([JOB])[0].name == "train"


def test_a_stopped_helper_is_killed_and_replaced(bench: Bench) -> None:
    """SIGSTOP: the call ends after its timeout, in a new helper."""
    bench.trouble("load stop 1")
    slurm = bench.adapter(timeout_s=0.5)
    slurm.cluster_name()
    stopped = bench.helper.pid
    assert slurm.jobs([JOB])[0].name == "train"

    assert bench.helper.starts == 2
    assert stopped is not None
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)


def test_commands_take_over_for_a_call_and_then_for_good(bench: Bench) -> None:
    """Each call that pyslurm does not survive is done by Slurm's commands; after some in a row they do everything."""
    bench.trouble("load die")
    slurm = bench.adapter()
    for number in range(1, GIVE_UP_AFTER + 1):
        assert slurm.jobs([JOB]) == [bench.commands.job]
        assert bench.helper.starts == 2 * number
    starts = bench.helper.starts

    assert "SIGKILL" in slurm.given_up
    assert slurm.jobs([JOB]) == [bench.commands.job]
    assert bench.helper.starts == starts
    assert len(bench.said) == 1
    assert bench.commands.calls == ["jobs"] * (GIVE_UP_AFTER + 1)


def test_a_python_error_of_pyslurm_goes_elsewhere_at_once(bench: Bench) -> None:
    """It would come again: the helper lives on, and the commands answer."""
    bench.trouble("load raise")
    slurm = bench.adapter()

    assert slurm.jobs([JOB]) == [bench.commands.job]
    assert bench.helper.starts == 1


def test_a_requeue_is_never_sent_twice(bench: Bench) -> None:
    """The helper dies after the request took effect: the job shows it, and nothing is repeated."""
    bench.trouble("requeue die-after 1")
    bench.adapter().requeue(JOB)

    assert bench.calls() == ["requeue 7 False"]
    assert bench.commands.calls == []


def test_a_requeue_that_did_not_arrive_is_repeated(bench: Bench) -> None:
    """The helper dies before: the job runs on as it did, and Slurm's commands requeue it."""
    bench.trouble("requeue die 1")
    bench.adapter().requeue(JOB, hold=True)

    assert bench.calls() == []
    assert bench.commands.calls == ["requeue"]


@pytest.mark.parametrize("call", ["release", "cancel"])
def test_changes_that_do_no_harm_twice_are_repeated(bench: Bench, call: str) -> None:
    """They take effect in the end, whenever the helper died."""
    bench.trouble(f"{call} die-after 1")
    getattr(bench.adapter(), call)(JOB)

    assert bench.calls() == [f"{call} 7"] * 2
    assert bench.commands.calls == []


def test_an_update_is_one_request(bench: Bench) -> None:
    """All changes travel together; what pyslurm takes for no change goes through the commands."""
    slurm = bench.adapter()
    slurm.update_job(JOB, JobUpdate(start_now=True, exclude=(NodeName("n3"), NodeName("n1")), time_limit_s=61, comment="c"))
    slurm.update_job(JOB, JobUpdate())

    now = int(FakeClock().time())
    changes = [("begin_time", now), ("comment", "c"), ("excluded_nodes", "n[1,3]"), ("time_limit", "2")]
    assert bench.calls() == [f"modify 7 {changes}"]
    slurm.update_job(JOB, JobUpdate(exclude=()))
    slurm.update_job(JOB, JobUpdate(comment="", time_limit_s=60))
    assert bench.commands.calls == ["update_job"] * 2


def test_what_is_delegated_goes_through_the_commands(bench: Bench) -> None:
    """Whatever else works: pyslurm's own submission makes other jobs, its hold another hold."""
    slurm = bench.adapter()
    slurm.submit(Submission("#!/bin/sh\ntrue\n", "/"))
    slurm.hold(JOB)
    slurm.reboot([NodeName("n1")], "why")

    assert bench.commands.calls == ["submit", "hold", "reboot"]
    assert set(bench.commands.calls) <= set(DELEGATED)
    assert bench.helper.starts == 0


def test_a_silent_controller_is_told_apart_after_bounded_tries(bench: Bench) -> None:
    """Connection refused: so many tries as with the commands, then ControllerDownError."""
    bench.trouble("load 1800")
    slurm = bench.adapter(retries=2)
    with pytest.raises(ControllerDownError, match="3 tries"):
        slurm.jobs([JOB])

    assert len(bench.said) == 2
    assert bench.commands.calls == []


def test_refusals_have_the_types_of_all_adapters(bench: Bench) -> None:
    """By Slurm's own words."""
    bench.trouble("requeue 2024", "release 2017")
    slurm = bench.adapter()
    with pytest.raises(JobStateError, match="cannot requeue job 7: Job is pending execution"):
        slurm.requeue(JOB)
    with pytest.raises(NoSuchJobError, match="cannot release job 7"):
        slurm.release(JOB)
    with pytest.raises(NoSuchJobError, match="cannot cancel job 99"):
        slurm.cancel(JobId(99))


def test_an_exit_of_the_library_ends_no_caller(bench: Bench) -> None:
    """The library exits where it finds no configuration; the caller goes on with Slurm's commands, and is told why."""
    bench.trouble("init exit")
    slurm = bench.adapter()

    assert slurm.jobs([JOB]) == [bench.commands.job]
    assert "exit status 1" in slurm.given_up
    assert "Unable to process configuration file" in slurm.given_up


def test_pyslurm_that_was_asked_for_must_work(bench: Bench) -> None:
    """With slurm_adapter = pyslurm its absence is an error, and the message says what is wrong."""
    (bench.place / "site/pyslurm.py").write_text("raise ImportError('libslurmfull.so: cannot open shared object file')\n")
    slurm = bench.adapter(required=True)
    with pytest.raises(MissingDependencyError, match="libslurmfull"):
        slurm.jobs([JOB])


def test_pyslurm_that_worked_once_may_break(bench: Bench) -> None:
    """Even where it was asked for, a process that is under way goes on."""
    slurm = bench.adapter(required=True)
    slurm.jobs([JOB])
    (bench.place / "site/pyslurm.py").write_text("raise ImportError('gone')\n")
    bench.helper.close()

    assert slurm.jobs([JOB]) == [bench.commands.job]
    assert "gone" in slurm.given_up


def test_a_pyslurm_for_another_slurm_is_refused(bench: Bench) -> None:
    """Slurm was upgraded and pyslurm was not: said in words, instead of reading memory wrongly."""
    assert misfit([24, 11, 5], "24.11.7") == ""
    assert misfit([26, 5, 5], "26.05.5") == ""
    slurm = bench.adapter(slurm_version=lambda: "26.05.5")
    assert slurm.jobs([JOB]) == [bench.commands.job]
    assert "built for Slurm 24.11.5, but this is 26.05.5" in slurm.given_up


def test_a_fork_starts_a_helper_of_its_own(bench: Bench) -> None:
    """Two processes on one pair of pipes would read each other's answers."""
    slurm = bench.adapter()
    slurm.jobs([JOB])
    pid = os.fork()
    if pid == 0:
        good = False
        try:
            good = slurm.jobs([JOB])[0].name == "train" and bench.helper.starts == 2
            bench.helper.close()
        finally:
            os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    assert slurm.jobs([JOB])[0].name == "train"
    assert bench.helper.starts == 1


def test_the_helper_ends_with_its_caller(bench: Bench) -> None:
    """Nobody is left behind when the caller is killed."""
    helper = Helper(bench.env)
    helper.hello()
    pid = helper.pid
    assert pid is not None
    running = helper._running
    assert running is not None
    assert running.process.stdin is not None
    running.process.stdin.close()  # what the kernel does at the caller's death
    deadline = time.monotonic() + 30
    while running.process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    helper.close()


def test_what_the_library_complains_about_does_not_pile_up(bench: Bench) -> None:
    """Standard error is kept, but not for ever."""
    code = ("import os,sys; from hpctrain.slurm.via_pyslurm import main; "
            "os.write(2, b'x' * 100000); sys.exit(main())")
    helper = Helper(bench.env, command=(COMMAND[0], "-c", code))
    helper.hello()
    assert helper._running is not None
    assert "x" * 100 in helper._running.last_words()
    helper.ask("cluster_name", 30.0)

    assert helper._running.last_words() == ""
    helper.close()
