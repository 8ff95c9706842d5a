"""What every Slurm adapter does: run once on the in-memory fake and once on a real private cluster."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from hpctrain.errors import (
    ControllerDownError,
    JobStateError,
    NoSuchJobError,
    NoSuchNodeError,
    NotPermittedError,
    SlurmError,
)
from hpctrain.ids import JobId, NodeName
from hpctrain.slurm.model import JobState, JobUpdate, Submission, clean_reason
from hpctrain.slurm.port import Slurm

if TYPE_CHECKING:
    from tests.contract.conftest import Driver, World

UNKNOWN_JOB = JobId(999_999)
UNKNOWN_NODE = NodeName("zzz1")
HOSTILE = [
    "pipe | pipe", "%j %u", "x" * 200, "new\nline JobState=FAILED", "$(touch pwned) `id`", "quote \" and '", "-dash",
    "é 日本語 \u202e", "~" * 40, "a;b&c>d", '"all quoted"', "tab\tbell\x07",
]  # fmt: skip


def test_version_and_cluster_name_are_told(slurm: Slurm) -> None:
    """The version begins with two numbers, and the cluster has a name."""
    major, minor = slurm.version().split(".")[:2]
    assert major.isdecimal()
    assert minor.isdecimal()
    assert slurm.cluster_name()


def test_submitted_job_is_listed_as_it_was_submitted(driver: Driver, world: World, slurm: Slurm) -> None:
    """Name, comment, user, partition, nodes, time limit and directory come back."""
    job_id = driver.submit("--job-name=run-1", "--comment='a comment'", "--time=90", "--hold", nodes=3)
    (job,) = slurm.jobs([job_id])
    assert (job.job_id, job.name, job.comment) == (job_id, "run-1", "a comment")
    assert (job.user, job.partition, job.num_nodes) == (world.user, "main", 3)
    assert (job.time_limit_s, job.work_dir) == (90 * 60, str(world.work_dir))
    assert job.submit_time is not None


def test_job_starts_on_free_nodes(driver: Driver) -> None:
    """A running job shows its nodes, its batch host, its start, and no exit yet."""
    job = driver.running("--time=60", nodes=2)
    assert len(job.nodes) == 2
    assert job.batch_host == job.nodes[0]
    assert job.start_time is not None
    assert job.end_time == job.start_time + 3600
    assert (job.restarts, job.exit_code, job.exit_signal) == (0, None, 0)


@pytest.mark.parametrize("code", [0, 3, 255])
def test_ended_job_keeps_its_exit_status(driver: Driver, code: int) -> None:
    """The batch script's own exit status is what a job ends with."""
    job = driver.ended(code)
    assert job.state is (JobState.FAILED if code else JobState.COMPLETED)
    assert job.state.finished
    assert (job.exit_code, job.exit_signal) == (code, 0)
    assert job.end_time is not None


def test_job_waits_with_a_reason_while_nodes_are_taken(driver: Driver, world: World) -> None:
    """What does not fit waits, says why, and starts when the nodes are free again."""
    first = driver.running(nodes=4)
    second = driver.submit(nodes=1)
    world.wait_until(lambda: driver.job(second).reason in ("Resources", "Priority"))
    assert driver.job(second).state is JobState.PENDING
    assert driver.job(second).end_time is None
    world.finish(first.job_id, 0)
    driver.wait_for(second, JobState.RUNNING)


def test_hold_keeps_a_job_from_starting_until_it_is_released(driver: Driver, slurm: Slurm) -> None:
    """A held job says so, whether it was submitted held or held later."""
    job_id = driver.submit("--hold")
    assert driver.job(job_id).held
    slurm.release(job_id)
    assert not driver.job(job_id).held
    driver.wait_for(job_id, JobState.RUNNING)
    blocked = driver.submit(nodes=4)
    slurm.hold(blocked)
    slurm.hold(blocked)
    assert driver.job(blocked).held
    assert driver.job(blocked).reason == "JobHeldUser"


def test_requeued_job_waits_for_its_begin_time_which_can_be_lifted(driver: Driver, slurm: Slurm, world: World) -> None:
    """A requeue keeps the id, counts, and holds the job back until somebody lifts it."""
    job = driver.running()
    slurm.requeue(job.job_id)
    driver.wait_for(job.job_id, JobState.PENDING)
    world.wait_until(lambda: driver.job(job.job_id).reason == "BeginTime")
    waiting = driver.job(job.job_id)
    assert not waiting.held
    assert waiting.restarts == 1
    assert waiting.nodes == ()
    assert waiting.batch_host is None
    assert waiting.exit_code is None
    world.settle()
    slurm.update_job(job.job_id, JobUpdate(start_now=True))
    assert driver.wait_for(job.job_id, JobState.RUNNING).restarts == 1


def test_owner_can_move_a_job_off_a_bad_node(driver: Driver, slurm: Slurm, world: World) -> None:
    """Requeue held, exclude, release, start now: the job runs again elsewhere."""
    job = driver.running(nodes=3)
    bad = job.nodes[1]
    slurm.requeue(job.job_id, hold=True)
    assert driver.wait_for(job.job_id, JobState.PENDING).held
    slurm.update_job(job.job_id, JobUpdate(exclude=(bad,)))
    assert driver.job(job.job_id).excluded_nodes == (bad,)
    slurm.release(job.job_id)
    world.settle()  # within the second of the requeue Slurm would take the new start's credential for the old one's
    slurm.update_job(job.job_id, JobUpdate(start_now=True))
    again = driver.wait_for(job.job_id, JobState.RUNNING)
    assert bad not in again.nodes
    assert again.excluded_nodes == (bad,)


def test_exclusions_are_replaced_and_cleared(driver: Driver, slurm: Slurm) -> None:
    """``exclude`` is the complete new list; an empty one clears it, None leaves it."""
    job_id = driver.submit("--hold", "--exclude=n[1-2],n4")
    assert driver.job(job_id).excluded_nodes == ("n1", "n2", "n4")
    slurm.update_job(job_id, JobUpdate(exclude=(NodeName("n3"),)))
    slurm.update_job(job_id, JobUpdate(comment="unrelated"))
    assert driver.job(job_id).excluded_nodes == ("n3",)
    slurm.update_job(job_id, JobUpdate(exclude=()))
    assert driver.job(job_id).excluded_nodes == ()


def test_time_limit_changes_in_whole_minutes_rounded_up(driver: Driver, slurm: Slurm) -> None:
    """A limit is never cut short by rounding."""
    job_id = driver.submit("--hold", "--time=60")
    slurm.update_job(job_id, JobUpdate(time_limit_s=61))
    assert driver.job(job_id).time_limit_s == 120


def test_empty_update_changes_nothing(driver: Driver, slurm: Slurm) -> None:
    """An update without any change is fine, on any job."""
    job_id = driver.submit("--hold")
    before = driver.job(job_id)
    slurm.update_job(job_id, JobUpdate())
    assert driver.job(job_id) == before


@pytest.mark.parametrize("state", ["pending", "running", "ended"])
def test_cancel_ends_a_job_in_any_state(driver: Driver, slurm: Slurm, state: str) -> None:
    """Pending and running jobs become CANCELLED; one that has ended keeps its result; twice is fine."""
    if state == "ended":
        job = driver.ended(3)
        slurm.cancel(job.job_id)
        assert driver.job(job.job_id).state is JobState.FAILED
        return
    job_id = driver.submit("--hold") if state == "pending" else driver.running().job_id
    slurm.cancel(job_id)
    slurm.cancel(job_id)
    driver.wait_for(job_id, JobState.CANCELLED)


@pytest.mark.parametrize(
    "call",
    [
        lambda slurm: slurm.requeue(UNKNOWN_JOB),
        lambda slurm: slurm.requeue(UNKNOWN_JOB, hold=True),
        lambda slurm: slurm.hold(UNKNOWN_JOB),
        lambda slurm: slurm.release(UNKNOWN_JOB),
        lambda slurm: slurm.cancel(UNKNOWN_JOB),
        lambda slurm: slurm.update_job(UNKNOWN_JOB, JobUpdate(start_now=True)),
        lambda slurm: slurm.update_job(UNKNOWN_JOB, JobUpdate(comment="x")),
    ],
    ids=["requeue", "requeue-hold", "hold", "release", "cancel", "start-now", "comment"],
)
def test_unknown_job_is_told_apart(slurm: Slurm, call) -> None:
    """Every change of a job that Slurm does not know raises NoSuchJobError with the id in the message."""
    with pytest.raises(NoSuchJobError, match=str(UNKNOWN_JOB)):
        call(slurm)


def test_changes_that_the_state_forbids_are_told_apart(driver: Driver, slurm: Slurm) -> None:
    """Requeueing what waits, lifting the begin time of what runs, changing or holding what has ended."""
    pending = driver.submit("--hold")
    with pytest.raises(JobStateError):
        slurm.requeue(pending)
    ended = driver.ended(0)
    for change in (JobUpdate(comment="x"), JobUpdate(start_now=True)):
        with pytest.raises(JobStateError):
            slurm.update_job(ended.job_id, change)
    with pytest.raises(JobStateError):
        slurm.hold(ended.job_id)
    running = driver.running()
    for change in (JobUpdate(start_now=True), JobUpdate(exclude=(NodeName("n4"),))):
        with pytest.raises(JobStateError):
            slurm.update_job(running.job_id, change)


def test_job_that_forbids_it_is_not_requeued(driver: Driver, slurm: Slurm) -> None:
    """``--no-requeue`` holds against a requeue by the owner, too."""
    job = driver.running("--no-requeue")
    with pytest.raises(JobStateError):
        slurm.requeue(job.job_id)
    assert driver.job(job.job_id).state is JobState.RUNNING


def test_hostile_names_and_comments_are_data(driver: Driver, slurm: Slurm) -> None:
    """Whatever a name or comment holds, listings stay whole and give it back unchanged."""
    # A #SBATCH line cannot hold a line break; a name that has one comes from the command line.
    names = {text: [f"--job-name={shlex.quote(text)}"] if "\n" not in text else [] for text in HOSTILE}
    texts = {driver.submit("--hold", *option): text for text, option in names.items()}
    for job_id, text in texts.items():
        slurm.update_job(job_id, JobUpdate(comment=text))
    jobs = {job.job_id: job for job in slurm.jobs(texts)}
    assert {job_id: job.comment for job_id, job in jobs.items()} == texts
    named = {job_id: text for job_id, text in texts.items() if "\n" not in text}
    assert {job_id: jobs[job_id].name for job_id in named} == named
    assert all(job.state is JobState.PENDING for job in jobs.values())


def test_many_jobs_are_one_query(driver: Driver, world: World, slurm: Slurm) -> None:
    """200 jobs cost no more questions to the controller than one does."""
    ids = [driver.submit("--hold", f"--job-name=many-{number}") for number in range(200)]
    before = world.queries()
    slurm.jobs(ids[:1])
    for_one = world.queries() - before
    listed = slurm.jobs(ids)
    assert [job.job_id for job in listed] == sorted(ids)
    assert world.queries() - before - for_one == for_one
    assert for_one <= 2


def test_jobs_are_selected_by_id_or_owner(driver: Driver, slurm: Slurm) -> None:
    """Unknown ids are absent, no ids are no jobs, None is all of one's own."""
    first, second = driver.submit("--hold"), driver.submit("--hold")
    assert [job.job_id for job in slurm.jobs([second, UNKNOWN_JOB, first, first])] == [first, second]
    assert slurm.jobs([UNKNOWN_JOB]) == []
    assert slurm.jobs([]) == []
    assert {first, second} <= {job.job_id for job in slurm.jobs()}
    assert {first, second} <= {job.job_id for job in slurm.jobs(all_users=True)}


def test_nodes_are_listed_in_natural_order_with_what_they_have(slurm: Slurm) -> None:
    """Names, GPUs, CPUs, memory and partitions of all nodes or of some."""
    nodes = slurm.nodes()
    assert [node.name for node in nodes] == ["n1", "n2", "n3", "n4"]
    assert all((node.gpus, node.gpu_type, node.gpus_allocated) == (8, "sim", 0) for node in nodes)
    assert all(node.cpus > 0 and node.memory_mib > 0 and node.partitions == ("main",) for node in nodes)
    assert all(node.state == "IDLE" and node.available and not node.drained and not node.reason for node in nodes)
    assert [node.name for node in slurm.nodes([NodeName("n3"), NodeName("n1")])] == ["n1", "n3"]
    assert slurm.nodes([]) == []


def test_busy_node_shows_its_gpus_as_allocated(driver: Driver, slurm: Slurm) -> None:
    """GPUs of a running job are not free."""
    job = driver.running("--gpus-per-node=8")
    (node,) = slurm.nodes(job.nodes)
    assert (node.gpus, node.gpus_allocated) == (8, 8)
    assert node.state in ("ALLOCATED", "MIXED")


@pytest.mark.parametrize("names", [[UNKNOWN_NODE], [NodeName("n1"), UNKNOWN_NODE], [NodeName("n1; true")]])
def test_unknown_node_is_told_apart(slurm: Slurm, world: World, names: list[NodeName]) -> None:
    """Reading or changing a node that Slurm does not know raises NoSuchNodeError, also beside known ones."""
    changes = (
        lambda nodes: slurm.drain(nodes, "x"), slurm.undrain, slurm.resume, lambda nodes: slurm.reboot(nodes, "x"),
        lambda nodes: slurm.create_reservation("spares", nodes, [world.user]),
    )  # fmt: skip
    for call in (slurm.nodes, *changes):
        with pytest.raises(NoSuchNodeError):
            call(names)


@pytest.mark.parametrize("reason", ["hpctrain: xid 79", "\"odd\" [x@1]\nState=DOWN Reason=none 'q' \"é 日本\""])
def test_drained_node_keeps_its_reason_and_gets_no_jobs(
    driver: Driver, slurm: Slurm, world: World, node: NodeName, reason: str
) -> None:
    """A drain says who, when and why; new jobs go elsewhere; an undrain puts the node back."""
    slurm.drain([node], reason)
    (drained,) = slurm.nodes([node])
    assert drained.drained
    assert not drained.available
    assert (drained.reason, drained.reason_user) == (clean_reason(reason), world.user)
    assert drained.reason_time is not None
    assert node not in driver.running(nodes=3).nodes
    slurm.undrain([node])
    (back,) = slurm.nodes([node])
    assert not back.drained
    assert back.reason == ""
    world.wait_until(lambda: slurm.nodes([node])[0].available)


def test_drain_without_a_reason_is_refused(slurm: Slurm, node: NodeName) -> None:
    """Nobody can undo a drain safely if it does not say why."""
    with pytest.raises(SlurmError, match="reason"):
        slurm.drain([node], " ")
    assert not slurm.nodes([node])[0].drained


def test_undrain_does_not_revive_a_node_that_is_down(slurm: Slurm, world: World, node: NodeName) -> None:
    """A node that was set DOWN stays DOWN."""
    world.node_down(node)
    slurm.undrain([node])
    (down,) = slurm.nodes([node])
    assert down.state == "DOWN"
    assert not down.available


def test_resume_revives_a_node_that_is_down(slurm: Slurm, world: World, node: NodeName) -> None:
    """Neither DOWN nor a drain nor a reason is left."""
    world.node_down(node)
    slurm.drain([node], "x")
    slurm.resume([node])
    (back,) = slurm.nodes([node])
    assert (back.state, back.drained, back.reason) == ("IDLE", False, "")


def test_rebooted_node_stays_out_until_somebody_resumes_it(slurm: Slurm, world: World, node: NodeName) -> None:
    """It is drained at once, boots when it is idle, and is DOWN then with the reason that we gave."""
    reason = "hpctrain: xid: GPU 3: Xid 79 (reboot n2-7)"
    slurm.drain([node], "hpctrain: xid: GPU 3: Xid 79")
    before = slurm.nodes([node])[0].boot_time or 0.0
    slurm.reboot([node], reason)
    slurm.reboot([node], reason)
    (asked,) = slurm.nodes([node])
    assert asked.drained
    assert asked.flags & {"REBOOT_REQUESTED", "REBOOT_ISSUED", "REBOOT"}
    assert asked.reason.startswith(reason)
    world.boot(node)
    world.wait_until(lambda: "reboot complete" in slurm.nodes([node])[0].reason)
    (booted,) = slurm.nodes([node])
    assert booted.state == "DOWN"
    assert not booted.available
    assert booted.reason.startswith(reason)
    assert (booted.boot_time or 0.0) > before

    def back() -> bool:
        """A slurmd that registers once more after its boot can make its node DOWN again: seen now and then with 22.05."""
        (found,) = slurm.nodes([node])
        if found.state == "DOWN":
            slurm.resume([node])
        return found.available

    world.wait_until(back)


def test_reboot_waits_for_jobs_and_keeps_new_ones_away(driver: Driver, slurm: Slurm, world: World) -> None:
    """The running job ends by itself; what is submitted meanwhile goes elsewhere."""
    job = driver.running()
    (name,) = job.nodes
    slurm.reboot([name], "hpctrain: test")
    assert name not in driver.running(nodes=3).nodes
    assert driver.job(job.job_id).state is JobState.RUNNING
    world.finish(job.job_id, 0)
    driver.wait_for(job.job_id, JobState.COMPLETED)
    world.boot(name)
    world.wait_until(lambda: "reboot complete" in slurm.nodes([name])[0].reason)
    slurm.resume([name])


def test_reboot_without_a_reason_is_refused(slurm: Slurm, node: NodeName) -> None:
    """Nobody would know why the node is down."""
    with pytest.raises(SlurmError, match="reason"):
        slurm.reboot([node], " ")
    assert not slurm.nodes([node])[0].drained


def test_reservations_set_nodes_aside_and_give_them_back(slurm: Slurm, world: World) -> None:
    """Made once, changed, read and deleted; what cannot be is refused and changes nothing."""
    assert slurm.reservations() == []
    slurm.create_reservation("spares", [NodeName("n4"), NodeName("n3")], [world.user])
    try:
        (made,) = slurm.reservations()
        assert (made.name, made.nodes, made.users) == ("spares", ("n3", "n4"), (world.user,))
        assert made.end_time is not None
        slurm.update_reservation("spares", [NodeName("n4")])
        assert slurm.reservations()[0].nodes == ("n4",)
        for call in (
            lambda: slurm.create_reservation("spares", [NodeName("n1")], [world.user]),
            lambda: slurm.update_reservation("spares", []),
            lambda: slurm.update_reservation("nope", [NodeName("n1")]),
            lambda: slurm.delete_reservation("nope"),
        ):
            with pytest.raises(SlurmError):
                call()
        assert slurm.reservations()[0].nodes == ("n4",)
    finally:
        slurm.delete_reservation("spares")
    assert slurm.reservations() == []


def test_partitions_tell_nodes_and_limits(slurm: Slurm) -> None:
    """The default partition is marked, is up, has all nodes and no limit."""
    (main,) = slurm.partitions()
    assert (main.name, main.is_default, main.up, main.max_time_s) == ("main", True, True, None)
    assert main.nodes == ("n1", "n2", "n3", "n4")


def test_unknown_partition_is_refused_with_those_that_exist(driver: Driver, slurm: Slurm) -> None:
    """A refused submission leaves no job and tells what would have been right."""
    before = {job.job_id for job in slurm.jobs()}
    with pytest.raises(SlurmError) as caught:
        driver.submit("--partition=nope")
    assert "nope" in caught.value.message
    assert "main" in caught.value.advice
    assert {job.job_id for job in slurm.jobs()} == before


def test_text_that_is_no_script_is_refused(slurm: Slurm, world: World) -> None:
    """Slurm wants a first line with an interpreter."""
    with pytest.raises(SlurmError, match="batch script"):
        slurm.submit(Submission("echo hi\n", str(world.work_dir)))


@pytest.mark.parametrize(
    "call",
    [
        lambda slurm: slurm.cluster_name(),
        lambda slurm: slurm.jobs(),
        lambda slurm: slurm.nodes(),
        lambda slurm: slurm.partitions(),
        lambda slurm: slurm.update_job(JobId(1), JobUpdate(start_now=True)),
        lambda slurm: slurm.requeue(JobId(1)),
        lambda slurm: slurm.hold(JobId(1)),
        lambda slurm: slurm.release(JobId(1)),
        lambda slurm: slurm.cancel(JobId(1)),
        lambda slurm: slurm.drain([NodeName("n1")], "x"),
        lambda slurm: slurm.undrain([NodeName("n1")]),
        lambda slurm: slurm.reboot([NodeName("n1")], "x"),
        lambda slurm: slurm.reservations(),
    ],
    ids=["cluster_name", "jobs", "nodes", "partitions", "update", "requeue", "hold", "release", "cancel", "drain",
         "undrain", "reboot", "reservations"],
)
def test_silent_controller_is_told_apart(world: World, call) -> None:
    """Every call that needs the controller raises ControllerDownError when it does not answer."""
    with pytest.raises(ControllerDownError):
        call(world.without_controller())


def test_submission_to_a_silent_controller_is_told_apart(world: World) -> None:
    """So does a submission; asking for the version still works."""
    down = world.without_controller()
    with pytest.raises(ControllerDownError):
        down.submit(Submission("#!/bin/sh\ntrue\n", str(world.work_dir)))
    assert down.version()


def test_strangers_see_jobs_but_may_not_touch_them(driver: Driver, world: World) -> None:
    """Another user's job is listed only on request; changing it, or a node, is not permitted."""
    job = driver.running()
    stranger = world.as_stranger()
    assert stranger.jobs() == []
    assert [seen.job_id for seen in stranger.jobs(all_users=True) if not seen.state.finished] == [job.job_id]
    for call in (stranger.cancel, stranger.requeue, stranger.hold, stranger.release):
        with pytest.raises(NotPermittedError):
            call(job.job_id)
    with pytest.raises(NotPermittedError):
        stranger.update_job(job.job_id, JobUpdate(comment="mine"))
    for change in (
        lambda: stranger.drain(list(job.nodes), "x"),
        lambda: stranger.undrain(list(job.nodes)),
        lambda: stranger.resume(list(job.nodes)),
        lambda: stranger.reboot(list(job.nodes), "x"),
        lambda: stranger.create_reservation("mine", list(job.nodes), [world.user]),
    ):
        with pytest.raises(NotPermittedError):
            change()
