"""Each cause by what Slurm and the coordinator's file show, and what may be concluded from it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import Job, JobState, Node
from hpctrain.watchdog.budget import Attempt, BudgetLimits, Cause
from hpctrain.watchdog.causes import SETTLE_S, Way, diagnose, failed_prologs
from hpctrain.watchdog.machine import Machine
from hpctrain.watchdog.model import Beat, Command, Deed, JobView, Looked, Managed, Polled
from hpctrain.watchdog.reconcile import Standing, reconcile

NOW = 10_000.0
NODES = tuple(NodeName(f"n{number}") for number in range(1, 5))
JOB = Job(
    JobId(7), "run-1", "ada", JobState.RUNNING, partition="main", nodes=NODES[:2], batch_host=NODES[0], start_time=9000.0,
)
PENDING = replace(JOB, state=JobState.PENDING, nodes=(), batch_host=None, start_time=None)
BEAT = Beat(NOW - 3, 5, "n1", 0, 0, "run")


def cause_and_way(job: Job, beat: Beat | None = BEAT) -> tuple[Cause, Way] | None:
    """What is the matter, seen for a while."""
    found = diagnose(JobView(job, Managed("run-1"), beat), NOW, beat_since=NOW - 10, since=NOW - 100)
    return (found.cause, found.way) if found else None


@pytest.mark.parametrize(("reason", "flags", "expected"), [
    ("launch failed requeued held", {"HELD"}, (Cause.PROLOG, Way.RELEASE)),
    ("launch_failed_requeued_held", {"HELD"}, (Cause.PROLOG, Way.RELEASE)),
    ("JobHoldMaxRequeue", {"HELD"}, (Cause.PROLOG, Way.RELEASE)),
    ("job requeued in held state", {"REQUEUE_HOLD"}, (Cause.HELD, Way.TELL)),
    ("JobHeldUser", {"HELD"}, (Cause.HELD, Way.LEAVE)),
    ("JobHeldAdmin", {"HELD"}, (Cause.HELD, Way.LEAVE)),
    ("DependencyNeverSatisfied", set(), (Cause.DEPENDENCY, Way.TELL)),
    ("ReqNodeNotAvail, Reserved for maintenance", set(), (Cause.MAINTENANCE, Way.WAIT)),
    ("BadConstraints", set(), (Cause.UNKNOWN, Way.UNEXCLUDE)),
    ("Dependency", set(), None), ("Resources", set(), None), ("Priority", set(), None), ("BeginTime", set(), None),
])
def test_waiting_jobs(reason: str, flags: set[str], expected: tuple[Cause, Way] | None) -> None:
    """Slurm's reason tells who keeps it waiting."""
    assert cause_and_way(replace(PENDING, reason=reason, flags=frozenset(flags))) == expected


def test_running_jobs() -> None:
    """Healthy, silent, without a batch host, without a coordinator; and what says nothing."""
    assert cause_and_way(JOB) is None
    assert cause_and_way(JOB, None) is None
    assert cause_and_way(JOB, replace(BEAT, time=NOW - 61)) == (Cause.COORDINATOR, Way.RESTART)
    assert cause_and_way(JOB, replace(BEAT, time=NOW - 61, state="over")) is None
    assert cause_and_way(replace(JOB, batch_host=NodeName("n9")), None) == (Cause.NODE, Way.RESTART)
    assert cause_and_way(replace(JOB, restarts=1)) == (Cause.COORDINATOR, Way.RESTART)
    assert cause_and_way(replace(JOB, restarts=1, start_time=NOW - 100)) is None
    assert cause_and_way(replace(JOB, flags=frozenset({"COMPLETING"})), replace(BEAT, time=0)) is None
    assert cause_and_way(replace(JOB, state=JobState.SUSPENDED), replace(BEAT, time=0)) is None


@pytest.mark.parametrize(("state", "expected"), [
    (JobState.CANCELLED, (Cause.CANCELLED, Way.LEAVE)), (JobState.COMPLETED, (Cause.UNKNOWN, Way.LEAVE)),
    (JobState.TIMEOUT, (Cause.TIME_LIMIT, Way.RESTART)), (JobState.PREEMPTED, (Cause.PREEMPTION, Way.RESTART)),
    (JobState.NODE_FAIL, (Cause.NODE, Way.RESTART)), (JobState.OUT_OF_MEMORY, (Cause.HOST_MEMORY, Way.RESTART)),
    (JobState.FAILED, (Cause.COORDINATOR, Way.RESTART)), (JobState.DEADLINE, (Cause.UNKNOWN, Way.TELL)),
])
def test_ended_jobs(state: JobState, expected: tuple[Cause, Way]) -> None:
    """By Slurm's state; one that has just ended may still be queued again by Slurm itself."""
    ended = replace(JOB, state=state, end_time=NOW - SETTLE_S, exit_code=1)
    assert cause_and_way(ended) == expected
    just = replace(ended, end_time=NOW - 1)
    assert cause_and_way(just) == (expected if expected[1] is Way.LEAVE else (Cause.UNKNOWN, Way.WAIT))


def test_a_failure_without_a_word_of_the_coordinator_is_left() -> None:
    """It may have been a decision: no file, or one of an earlier start."""
    ended = replace(JOB, state=JobState.FAILED, end_time=NOW - 100, exit_code=1)
    assert cause_and_way(ended, None) == (Cause.UNKNOWN, Way.LEAVE)
    assert cause_and_way(replace(ended, restarts=1)) == (Cause.UNKNOWN, Way.LEAVE)


def cluster(*drained: str, at: float = NOW, reason: str = "Prolog error") -> list[Node]:
    """Four nodes, some of them drained."""
    return [
        Node(name, "IDLE", frozenset({"DRAIN"}), ("main",), reason=reason, reason_time=at)
        if name in drained else Node(name, "IDLE", partitions=("main",)) for name in NODES
    ]  # fmt: skip


def test_failed_prologs_are_told_from_older_drains_and_peoples() -> None:
    """By reason and time."""
    assert failed_prologs(cluster("n1"), since=NOW) == ("n1",)
    assert failed_prologs(cluster("n1", reason="hpctrain: gpu_lost"), since=NOW) == ("n1",)
    assert failed_prologs(cluster("n1", at=NOW - 50), since=NOW) == ()
    assert failed_prologs(cluster("n1", reason="new fan"), since=NOW) == ()


HELD = replace(PENDING, restarts=1, reason="launch failed requeued held", flags=frozenset({"HELD"}), submit_time=NOW - 5)


def released(needed: int, attempts: tuple[Attempt, ...] = ()) -> list[tuple[Deed, tuple[str, ...]]]:
    """What is done about a job that a failed prolog on n1 has put on hold."""
    machine = Machine()
    managed = Managed("run-1", "/r", limits=BudgetLimits(), nodes_needed=needed)
    commands = machine.handle(Polled(NOW, [JobView(HELD, managed)]))
    assert [command.deed for command in commands] == [Deed.LOOK]
    commands = machine.handle(Looked(NOW, 7, 1, cluster("n1"), attempts))
    assert machine.handle(Polled(NOW + 10, [JobView(HELD, managed)])) == [], "each start is judged once"
    return [(command.deed, command.nodes) for command in commands if command.deed is not Deed.RECORD]


def test_a_failed_prolog_excludes_its_node_and_releases_the_job() -> None:
    """Where nodes enough are left; else it is released all the same, since Slurm does not use the drained node."""
    assert released(2) == [
        (Deed.ATTEMPT, ()), (Deed.EXCLUDE, ("n1",)), (Deed.RELEASE, ()), (Deed.NOTIFY, ()),
    ]
    assert released(4) == [(Deed.ATTEMPT, ()), (Deed.RELEASE, ()), (Deed.NOTIFY, ())]


def test_prologs_that_fail_again_and_again_leave_the_job_held() -> None:
    """The budget holds for them, too; the job is not cancelled, since its turn may still come."""
    before = tuple(Attempt(NOW - 50, Cause.PROLOG, "R3", 0, None, False) for _ in range(2))
    assert released(2, before) == [(Deed.ATTEMPT, ()), (Deed.NOTIFY, ())]


def test_the_same_events_give_the_same_commands() -> None:
    """The machine has no clock, no chance and no other state than what it was told."""
    def run() -> list[Command]:
        machine, managed = Machine(), Managed("run-1", "/r", nodes_needed=2)
        commands: list[Command] = []
        for turn in range(20):
            view = JobView(JOB, managed, replace(BEAT, time=NOW))
            commands += machine.handle(Polled(NOW + turn * 10, [view]))
            if commands and commands[-1].deed is Deed.LOOK:
                commands += machine.handle(Looked(NOW + turn * 10, 7, 0, cluster(), ()))
        return commands

    assert run() == run() and [command.deed for command in run()].count(Deed.REQUEUE) == 1


@pytest.mark.parametrize(("deed", "job", "standing"), [
    (Deed.REQUEUE, JOB, Standing.TO_DO), (Deed.REQUEUE, None, Standing.VOID),
    (Deed.REQUEUE, replace(JOB, restarts=1), Standing.DONE),
    (Deed.REQUEUE, replace(JOB, state=JobState.CANCELLED), Standing.VOID),
    (Deed.REQUEUE, replace(JOB, state=JobState.CANCELLED, restarts=1), Standing.VOID),
    (Deed.REQUEUE, replace(JOB, state=JobState.FAILED), Standing.TO_DO),
    (Deed.REQUEUE, replace(JOB, flags=frozenset({"COMPLETING"})), Standing.LATER),
    (Deed.REQUEUE, PENDING, Standing.VOID),
    (Deed.RELEASE, HELD, Standing.TO_DO), (Deed.RELEASE, PENDING, Standing.DONE),
    (Deed.RELEASE, replace(HELD, reason="JobHeldUser"), Standing.VOID), (Deed.RELEASE, JOB, Standing.VOID),
    (Deed.EXCLUDE, PENDING, Standing.TO_DO), (Deed.EXCLUDE, JOB, Standing.VOID),
    (Deed.EXCLUDE, replace(PENDING, excluded_nodes=NODES[:1]), Standing.DONE),
    (Deed.INCLUDE, replace(PENDING, excluded_nodes=NODES[:1]), Standing.TO_DO), (Deed.INCLUDE, PENDING, Standing.DONE),
    (Deed.START_NOW, replace(PENDING, reason="BeginTime"), Standing.TO_DO),
    (Deed.START_NOW, replace(PENDING, reason="Priority"), Standing.VOID),
    (Deed.CANCEL, JOB, Standing.TO_DO), (Deed.CANCEL, replace(JOB, restarts=1), Standing.VOID),
    (Deed.CANCEL, replace(JOB, state=JobState.FAILED), Standing.DONE),
])
def test_standing(deed: Deed, job: Job | None, standing: Standing) -> None:
    """Done, to do, pointless, or to be looked at again: by what Slurm shows."""
    command = Command(deed, "k", 7, 0, "run-1", nodes=("n1",))
    assert reconcile(command, job)[0] is standing
