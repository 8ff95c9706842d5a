"""A watchdog over a fake Slurm and real run directories: each cause of death, and what must be left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.slurm.model import JobState, JobUpdate
from hpctrain.watchdog import attempts
from hpctrain.watchdog.budget import Attempt, Cause
from tests.unit.watchdog.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Four nodes, nothing submitted."""
    return World(tmp_path)


def kinds(world: World) -> list[str]:
    """The kinds of the watchdog's events."""
    return [event.kind for event in world.events()]


def test_a_healthy_job_is_left_alone_with_one_question_per_poll(world: World) -> None:
    """A beating coordinator: nothing is done, and the controller is asked once per poll."""
    job_id = world.submit()
    world.slurm.calls.clear()
    for beat in range(20):
        world.beat(job_id, beat=beat)
        world.slurm.calls.clear()
        world.turns(1)
        assert world.slurm.calls == ["jobs"]
    assert world.deeds() == [] and world.job(job_id).restarts == 0


def test_a_job_whose_coordinator_is_gone_is_queued_again_and_starts_at_once(world: World) -> None:
    """Found within two polls of going stale, counted, told, and Slurm's delay is lifted."""
    job_id = world.submit()
    world.beat(job_id)
    world.turns(7)
    assert world.job(job_id).restarts == 0
    world.clock.advance(world.daemon.turn())
    world.daemon.turn()
    assert (world.job(job_id).state, world.job(job_id).restarts) == (JobState.PENDING, 1)
    world.turns(3)
    assert world.job(job_id).state is JobState.RUNNING
    assert kinds(world) == ["fault.detected", "recovery.started"]
    assert [attempt["cause"] for attempt in world.attempts()] == ["coordinator"]
    assert [command.data["kind"] for command in world.told.commands] == ["restart"]
    world.turns(3)
    assert world.job(job_id).restarts == 1


def test_the_next_look_comes_soon_until_the_job_runs_again(world: World) -> None:
    """Five seconds after a requeue, not a minute: its delay is to be lifted; then back to the ordinary pace."""
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    waits = []
    for _ in range(5):
        waits.append(world.daemon.turn())
        world.clock.advance(waits[-1])
    assert waits[0] == pytest.approx(12.1), "found in the first look, to be confirmed by a second"
    assert waits[1:3] == [5, 5], "queued again, waiting for its delay to be lifted"
    assert world.job(job_id).state is JobState.RUNNING and world.job(job_id).restarts == 1
    world.beat(job_id)
    assert world.daemon.turn() > 5


def test_an_old_sign_of_life_needs_two_looks(world: World) -> None:
    """A watchdog that has just started does not trust one look at a clock that may differ from its own."""
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    world.turns(1)
    assert world.job(job_id).restarts == 0
    world.turns(2)
    assert world.job(job_id).restarts == 1


def test_clocks_that_differ_kill_nothing(world: World) -> None:
    """A coordinator whose clock is ten minutes behind lives as long as its beat grows."""
    job_id = world.submit()
    for beat in range(20):
        world.beat(job_id, beat=beat, ago_s=600)
        world.turns(1)
    assert world.deeds() == []


def test_a_lost_batch_host_is_found_without_any_file(world: World) -> None:
    """The job stays RUNNING and Slurm does not notice: BatchHost is not among its nodes any more."""
    job_id = world.submit(nodes=3)
    world.slurm.node_down("n1")
    assert world.job(job_id).state is JobState.RUNNING
    world.turns(3)
    assert world.job(job_id).restarts == 1
    assert world.attempts()[0]["cause"] == "node" and world.attempts()[0]["nodes"] == ["n1"]


@pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.COMPLETED])
def test_what_a_person_ended_stays_ended(world: World, state: JobState) -> None:
    """Scancel is final, whatever the coordinator's file says."""
    job_id = world.submit()
    world.beat(job_id)
    world.turns(1)
    world.slurm.cancel(job_id) if state is JobState.CANCELLED else world.slurm.finish(job_id)
    world.turns(30)
    assert world.deeds() == []


def test_a_job_that_was_cancelled_between_decision_and_deed_stays_cancelled(world: World) -> None:
    """The requeue is void: the job is looked at right before."""
    job_id = world.submit()
    world.beat(job_id)
    world.point = lambda name: world.slurm.cancel(job_id) if name == "begun:requeue" else None
    world.turns(10)
    assert world.job(job_id).state is JobState.CANCELLED
    assert "requeue:void" in world.deeds()


def test_a_decision_of_the_coordinator_is_respected(world: World) -> None:
    """It said that it is over before the batch script failed: nobody starts that job again."""
    job_id = world.submit()
    world.beat(job_id, state="over", exit_code=1)
    world.slurm.finish(job_id, exit_code=1)
    world.turns(10)
    assert world.deeds() == []


def test_a_batch_script_that_died_without_a_decision_is_started_again(world: World) -> None:
    """Kill -9 of the coordinator ends the script with 137 while its file still says 'run'."""
    job_id = world.submit()
    world.beat(job_id)
    world.turns(1)
    world.slurm.finish(job_id, exit_code=137)
    world.turns(5)
    assert world.job(job_id).restarts == 1


@pytest.mark.parametrize(("state", "cause"), [
    (JobState.NODE_FAIL, "node"), (JobState.TIMEOUT, "time_limit"), (JobState.PREEMPTED, "preemption"),
    (JobState.OUT_OF_MEMORY, "host_memory"), (JobState.BOOT_FAIL, "node"),
])
def test_ends_by_slurm_are_told_apart(world: World, state: JobState, cause: str) -> None:
    """Each end has its cause, and the job continues."""
    job_id = world.submit()
    world.beat(job_id)
    world.turns(1)
    world.slurm.finish(job_id, state=state)
    world.turns(5)
    assert [attempt["cause"] for attempt in world.attempts()] == [cause]
    assert world.job(job_id).restarts == 1


def test_a_recipe_that_forbids_requeueing_is_obeyed(world: World) -> None:
    """'requeue: false': people are told, the job is not touched."""
    job_id = world.submit(requeue=False)
    world.beat(job_id)
    world.turns(12)
    assert world.job(job_id).restarts == 0
    assert kinds(world) == ["detection.alert"] and len(world.told.commands) == 1


def test_a_job_that_never_progresses_is_stopped_with_a_verdict(world: World) -> None:
    """The third coordinator in a row that dies without a step: R4, the job is cancelled, the reason is in its record."""
    job_id = world.submit(max_restarts_without_progress=2)
    for _ in range(3):
        world.beat(job_id)
        world.turns(12)
    assert world.job(job_id).state is JobState.CANCELLED
    verdict = [event for event in world.events() if event.kind == "job.failed"]
    assert len(verdict) == 1 and verdict[0].evidence["rule"] == "no_progress"
    assert [attempt["rung"] for attempt in world.attempts()] == ["R3", "R3", "R4"]
    assert world.told.commands[-1].data["kind"] == "stop"


def test_a_repeat_offender_is_excluded_before_the_job_starts_again(world: World) -> None:
    """The second fault of a node: requeued held, excluded, released; the exclusion ends when its time is over."""
    job_id = world.submit(nodes=2, max_restarts_without_progress=9, exclude_for_s=500)
    attempts.append(world.run(), Attempt(world.clock.time() - 60, Cause.NODE, "R2", 0, 5, True, "", ("n1",)))
    world.slurm.node_down("n1")
    world.turns(3)
    world.slurm.node_up("n1")
    world.turns(6)
    job = world.job(job_id)
    assert job.state is JobState.RUNNING and job.nodes == ("n2", "n3") and job.excluded_nodes == ("n1",)
    assert "requeuehold:done" in world.deeds() and "node.excluded" in kinds(world)
    world.clock.advance(600)
    world.slurm.requeue(job_id)
    world.turns(1)
    assert world.job(job_id).excluded_nodes == ()


def test_a_held_job_of_a_person_stays_held(world: World) -> None:
    """Before its first start, and when the watchdog had it queued again."""
    job_id = world.submit(options=["--hold"])
    world.turns(20)
    assert world.job(job_id).held and world.deeds() == []


def test_only_slurms_own_delay_is_lifted(world: World) -> None:
    """A start that somebody wants tomorrow stays tomorrow."""
    job_id = world.submit()
    world.slurm.requeue(job_id)
    entry = world.slurm._scheduler.entries[job_id]
    world.slurm._scheduler.make_eligible(entry, world.clock.time() + 86_400)
    world.turns(5)
    assert world.deeds() == [] and world.job(job_id).state is JobState.PENDING


def test_silence_means_nothing(world: World) -> None:
    """While the controller does not answer nothing is done, and afterwards a suspicion has to be found anew."""
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    world.turns(1)
    world.slurm.controller_up = False
    waits = [world.daemon.turn() for _ in range(8)]
    assert waits == sorted(waits) and waits[-1] == 300
    world.clock.advance(10)
    world.slurm.controller_up = True
    world.turns(1)
    assert world.deeds() == [] and world.job(job_id).restarts == 0
    world.turns(2)
    assert world.job(job_id).restarts == 1


def test_a_lost_job_is_told_and_not_submitted_again(world: World) -> None:
    """Slurm has forgotten a job that had not ended; one that had ended is no loss."""
    lost, ended = world.submit("run-1", nodes=1), world.submit("run-2", nodes=1)
    for job_id in (lost, ended):
        world.beat(job_id)
    world.turns(1)
    world.slurm.finish(ended)
    world.turns(1)
    world.slurm.forget(lost)
    world.slurm.forget(ended)
    world.turns(4)
    assert kinds(world) == ["detection.alert"] and world.events("run-2") == []
    assert [command.data["kind"] for command in world.told.commands] == ["lost"]
    world.start()
    world.turns(4)
    assert len(world.told.commands) == 1


def test_jobs_of_others_and_of_other_programs_are_not_touched(world: World) -> None:
    """No comment of ours, or a comment without the run directory: nothing is done."""
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    world.slurm.update_job(job_id, JobUpdate(comment="something else"))
    world.turns(5)
    assert world.deeds() == []


def test_an_old_job_of_a_run_that_went_on_elsewhere_is_fenced(world: World) -> None:
    """run.json names another job now: this one is not brought back."""
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    (world.run().record).write_text('{"job_id": 999}')
    world.turns(5)
    assert world.deeds() == []


def test_a_glance_at_the_files_brings_the_poll_forward(world: World) -> None:
    """Between two polls a minute apart the file that stopped is noticed, and the poll comes at once."""
    job_id = world.submit()
    world.beat(job_id)
    world.daemon.turn()

    def pause(seconds: float) -> bool:
        world.clock.advance(seconds)
        return False

    world.slurm.calls.clear()
    started = world.clock.time()
    assert not world.daemon.wait(300, pause)
    assert 60 <= world.clock.time() - started <= 85
    assert world.slurm.calls == []
    world.daemon.turn()
    assert world.job(job_id).restarts == 1


def test_silence_before_our_eyes_is_acted_upon_by_the_first_poll_after_a_minute(world: World) -> None:
    """The files between the polls have shown it for long enough: no second poll has to confirm it."""
    job_id = world.submit()
    world.beat(job_id)

    def pause(seconds: float) -> bool:
        world.clock.advance(seconds)
        return False

    begun, polls = world.clock.time(), 0
    while not world.job(job_id).restarts:
        polls += world.clock.time() - begun > 60
        wait_s = world.daemon.turn()
        if not world.job(job_id).restarts:
            world.daemon.wait(wait_s, pause)
    assert polls == 1 and world.clock.time() - begun <= 66


def test_other_jobs_on_their_way_do_not_make_it_slower(world: World) -> None:
    """Polls that come every five seconds, without a glance between them, find it just so."""
    job_id = world.submit()
    world.beat(job_id)
    world.turns(13, step_s=5)
    assert world.job(job_id).restarts == 0
    world.turns(1)
    assert world.job(job_id).restarts == 1


def test_a_watchdog_that_did_not_look_knows_nothing(world: World) -> None:
    """After an hour in which the whole machine stood still the coordinator gets the time for its next sign of life."""
    job_id = world.submit()
    world.beat(job_id)
    world.turns(1)
    world.clock.advance(3600)
    world.turns(1)
    world.beat(job_id, beat=2)
    world.turns(3)
    assert world.deeds() == [] and world.job(job_id).restarts == 0


def test_a_failure_that_was_counted_is_not_counted_again(world: World) -> None:
    """The coordinator had counted how its start ended, and died before it could have the job queued again."""
    job_id = world.submit(max_restarts_without_progress=1)
    world.beat(job_id, ago_s=500)
    attempts.append(world.run(), Attempt(world.clock.time(), Cause.NODE, "R3", 0, 5, True, job=job_id, restarts=0))
    world.turns(4)
    assert world.job(job_id).restarts == 1
    assert [attempt["cause"] for attempt in world.attempts()] == ["node"]


def test_a_decision_to_stop_is_carried_out(world: World) -> None:
    """The coordinator had decided that the run stops, and died before it could say so."""
    job_id = world.submit()
    world.beat(job_id, ago_s=500)
    end = Attempt(world.clock.time(), Cause.RANK, "R4", 0, 5, True, message="ValueError: boom", job=job_id, restarts=0)
    attempts.append(world.run(), end)
    world.turns(4)
    assert world.job(job_id).state is JobState.CANCELLED and len(world.attempts()) == 1
    assert ["job.failed" in kinds(world), "boom" in world.events()[-1].reason] == [True, True]


def test_a_coordinator_that_comes_back_twice_is_given_up_the_third_time(world: World) -> None:
    """Each time the requeue was void; the next silence is judged anew all the same."""
    job_id = world.submit(max_restarts_without_progress=9)
    for beat in (1, 2):
        world.beat(job_id, beat=beat, ago_s=500)
        back = beat + 10

        def return_(name: str, beat: int = back) -> None:
            if name == "begun:requeue":
                world.beat(job_id, beat=beat, ago_s=-100)

        world.point = return_
        world.turns(3)
        world.point = lambda _: None
        assert world.job(job_id).restarts == 0 and world.deeds().count("requeue:void") == beat
    world.beat(job_id, beat=99, ago_s=500)
    world.turns(3)
    assert world.job(job_id).restarts == 1 and len(world.attempts()) == 1


def test_a_user_is_told_that_an_excluded_node_stays_in_service(world: World) -> None:
    """Whoever may not drain excludes, and says so."""
    job_id = world.submit(nodes=2, max_restarts_without_progress=9)
    attempts.append(world.run(), Attempt(world.clock.time() - 60, Cause.NODE, "R2", 0, 5, True, "", ("n1",)))
    world.slurm.node_down("n1")
    world.turns(4)
    assert world.job(job_id).restarts == 1
    (told,) = [command.reason for command in world.told.commands if command.data["kind"] == "restart"]
    assert "without n1, in service for others still (only an administrator's watchdog drains nodes)" in told
    assert not any(deed.startswith("drain") for deed in world.deeds())
