"""Following, waiting, polling, cancelling, on a cluster that lives while we sleep."""

from __future__ import annotations

import pytest

from hpctrain.errors import ControllerDownError, JobFailedError, JobStateError, NoSuchJobError, NotPermittedError
from hpctrain.jobs.cancel import cancel
from hpctrain.jobs.event_list import EventPrinter, follow_events, wanted
from hpctrain.jobs.follow import LogRequest, follow, goodbye, show
from hpctrain.jobs.logs import Selection
from hpctrain.jobs.poll import LATEST_S, SOONEST_S, SURE_AFTER_S, Poller
from hpctrain.jobs.reader import read_events
from hpctrain.jobs.text import iso
from hpctrain.jobs.wait import require_success, wait
from hpctrain.slurm.model import JobState
from hpctrain.testing.run_builder import RunBuilder
from tests.unit.jobs.world import World


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def finish(world: World, code: int = 0) -> None:
    """The work ends, and Slurm knows."""
    world.event("job.finished" if code == 0 else "job.failed", "" if code == 0 else "rank 1 died")
    world.slurm.finish(world.job_id, code)


def test_follow_shows_lines_and_ends_with_the_job(world):
    """Lines appear as they are written, also of files that appear later; the end is told with how it ended."""
    world.say("one")
    world.clock.after(5, lambda: world.say("two"))
    world.clock.after(9, lambda: world.say("from rank 1", rank=1, node="n2"))
    world.clock.after(20, lambda: (world.say("last"), finish(world)))
    status = follow(world.run, world.slurm, world.clock, world.screen, LogRequest(Selection(all=True)))
    assert world.shown == ["[rank 0 n1] one", "[rank 0 n1] two", "[rank 1 n2] from rank 1", "[rank 0 n1] last"]
    assert status.succeeded and "finished after" in world.told and "hpctrain report tiny-1" in world.told


def test_follow_goes_on_over_a_requeue(world):
    """A requeue is announced, its delay lifted once, and the next incarnation's lines follow."""
    world.event("job.started")
    world.say("before")

    def requeue() -> None:
        world.event("job.requeued", "the time limit was near")
        world.slurm.requeue(world.job_id)

    def start_again() -> None:
        world.event("job.started")
        world.say("after", node="n3", incarnation=1)

    world.clock.after(10, requeue)
    world.clock.after(25, start_again)
    world.clock.after(40, lambda: finish(world))
    status = follow(world.run, world.slurm, world.clock, world.screen)
    assert world.shown == ["[rank 0 n1] before", "[rank 0 n3] after"]
    assert "started again (incarnation 1)" in world.told and "asked Slurm to start it now" in world.told
    assert "the time limit was near" in world.told
    assert world.slurm.calls.count("update_job") == 1 and status.restarts == 1


def test_delay_of_a_job_that_is_starting_already_is_no_matter(world, monkeypatch):
    """A job that starts in the moment in which its delay is to be lifted gives nobody an error to read."""
    def started(*_: object) -> None:
        raise JobStateError("cannot change job 1: Job is no longer pending execution")

    monkeypatch.setattr(world.slurm, "update_job", started)
    world.event("job.requeued", "rank 1 died")
    world.slurm.requeue(world.job_id)
    told = []
    wait(world.run, world.slurm, world.clock, timeout_s=30, say=told.append)
    assert told == []


def test_delay_that_a_person_set_is_left_alone(world):
    """Without a requeue of the run's own nobody's BeginTime is lifted."""
    world.clock.after(5, lambda: world.slurm.requeue(world.job_id))
    status = wait(world.run, world.slurm, world.clock, timeout_s=60)
    assert status.state == "requeued" and "update_job" not in world.slurm.calls


def test_somebody_elses_delay_is_left_alone(world, tmp_path):
    """The delay of a job that belongs to another user is not touched."""
    builder = RunBuilder(tmp_path, "tiny-1", job_id=world.job_id, submitted=world.now, user="bob")
    world.event("job.requeued")
    world.slurm.requeue(world.job_id)
    assert wait(builder.run, world.slurm, world.clock, timeout_s=30).state == "requeued"
    assert "update_job" not in world.slurm.calls


def test_job_without_its_batch_host_is_put_back_in_the_queue(world):
    """A running job whose batch script's node is gone is requeued once, with the reason told and recorded, and goes on."""
    world.event("job.started")
    world.clock.after(10, lambda: world.slurm.node_down("n1"))
    world.clock.after(60, lambda: world.event("job.started"))
    world.clock.after(80 + SURE_AFTER_S, lambda: finish(world))
    status = follow(world.run, world.slurm, world.clock, world.screen)
    assert status.succeeded and status.restarts == 1 and world.slurm.calls.count("requeue") == 1
    assert "n1, the node of its batch script, is gone" in world.told and "put back in the queue" in world.told
    told = [event for event in read_events(world.run.dir) if event.kind == "job.requeued"]
    assert [(event.source, event.node) for event in told] == [("cli", "n1")] and "is gone" in told[0].reason
    assert world.slurm.calls.count("update_job") == 1


def test_batch_host_is_believed_to_be_gone_only_after_two_answers(world):
    """Nothing is requeued before Slurm has said twice, at least SURE_AFTER_S apart, that the batch host is gone."""
    poller = Poller(world.run, world.slurm, world.clock)
    world.slurm.node_down("n1")
    start = world.now
    while "requeue" not in world.slurm.calls:
        poller.status()
        world.clock.sleep(0.5)
    assert SURE_AFTER_S <= world.now - start <= SURE_AFTER_S + 2 * SOONEST_S


def test_refused_requeue_is_told_once(world):
    """A job that Slurm does not put back in the queue is not tried again and again."""
    world.slurm.operator = False
    world.event("job.started")
    world.slurm.node_down("n1")
    world.slurm.user = "bob"
    told = []
    status = wait(world.run, world.slurm, world.clock, timeout_s=120 + SURE_AFTER_S, say=told.append)
    assert not status.final and status.silent and world.slurm.calls.count("requeue") == 1
    assert len(told) == 1 and "was not requeued" in told[0]


def test_somebody_elses_job_is_not_requeued(world, tmp_path):
    """The job of another user is left as it is."""
    builder = RunBuilder(tmp_path, "tiny-1", job_id=world.job_id, submitted=world.now, user="bob")
    world.slurm.node_down("n1")
    wait(builder.run, world.slurm, world.clock, timeout_s=60)
    assert "requeue" not in world.slurm.calls


def test_follow_starts_with_the_tail(world):
    """With a tail only the newest lines come first, and none is lost or shown twice afterwards."""
    for number in range(10):
        world.say(f"old {number}")
    world.clock.after(3, lambda: world.say("new"))
    world.clock.after(6, lambda: finish(world))
    follow(world.run, world.slurm, world.clock, world.screen, LogRequest(tail=2))
    assert world.shown == ["[rank 0 n1] old 8", "[rank 0 n1] old 9", "[rank 0 n1] new"]


def test_follow_of_a_failed_job_says_why_and_what_to_do(world):
    """A failure is told with its cause and the command that shows more."""
    world.clock.after(3, lambda: finish(world, 1))
    status = follow(world.run, world.slurm, world.clock, world.screen)
    assert status.succeeded is False and "failed" in world.told and "rank 1 died" in world.told
    assert "hpctrain logs tiny-1 --all --tail 50" in world.told


def test_follow_survives_a_controller_that_is_down(world):
    """A controller that stops answering is told once each way, and asked ever more rarely."""
    def switch(up: bool) -> None:
        world.slurm.controller_up = up

    world.clock.after(5, lambda: switch(False))
    world.clock.after(600, lambda: switch(True))
    world.clock.after(900, lambda: finish(world))
    world.say("x")
    status = follow(world.run, world.slurm, world.clock, world.screen)
    assert status.succeeded
    assert world.told.count("Slurm does not answer") == 2 and world.told.count("Slurm answers again") == 1


def test_ctrl_c_leaves_the_job_running(world):
    """KeyboardInterrupt passes through without touching the job, and the message says how to come back."""
    def interrupt() -> None:
        raise KeyboardInterrupt

    world.clock.after(3, interrupt)
    with pytest.raises(KeyboardInterrupt):
        follow(world.run, world.slurm, world.clock, world.screen)
    assert world.slurm.jobs([world.job_id])[0].state is JobState.RUNNING
    assert goodbye(world.run) == f"stopped following; job {world.job_id} goes on. Follow it again: hpctrain logs -f tiny-1"


def test_polling_asks_slurm_rarely(world):
    """An hour of waiting with nothing happening asks Slurm no more than the backoff allows."""
    wait(world.run, world.slurm, world.clock, timeout_s=3000, poll_s=1.0)
    assert 3000 / LATEST_S * 0.8 <= world.slurm.calls.count("jobs") <= 3000 / LATEST_S + 12


def test_an_event_makes_the_next_question_due(world):
    """A job event is followed by a question to Slurm within seconds, also after a long quiet time."""
    poller = Poller(world.run, world.slurm, world.clock)
    for _ in range(100):
        poller.status()
        world.clock.sleep(1)
    finish(world)
    start = world.now
    while not poller.status().final:
        world.clock.sleep(0.5)
    assert world.now - start <= SOONEST_S


def test_wait_times_out_with_the_newest_status(world):
    """After the time limit the status is returned although it is not final."""
    before = world.now
    status = wait(world.run, world.slurm, world.clock, timeout_s=30)
    assert not status.final and world.now - before == pytest.approx(30)


def test_require_success(world):
    """A run that failed becomes JobFailedError with exit code 10 and a hint; a finished one passes."""
    world.clock.after(3, lambda: finish(world, 1))
    with pytest.raises(JobFailedError, match="rank 1 died") as caught:
        require_success(wait(world.run, world.slurm, world.clock))
    assert caught.value.exit_code == 10 and "hpctrain logs" in caught.value.advice


def test_show_since_leaves_older_lines_out(world):
    """--since keeps what is young enough, with and without --tail."""
    for number in range(5):
        world.say(f"line {number}")
        world.clock.advance(60)
    assert show(world.run, LogRequest(since=world.now - 130), world.screen) == 2
    assert show(world.run, LogRequest(since=world.now - 130, tail=1), world.screen) == 1
    assert world.shown == ["[rank 0 n1] line 3", "[rank 0 n1] line 4", "[rank 0 n1] line 4"]


def test_follow_events_until_the_end(world):
    """Events come once each, also one that a slow file system shows late."""
    world.event("job.submitted")
    world.clock.after(5, lambda: world.builder.event(world.now - 4, "agent", "ranks.started", node="n2"))
    world.clock.after(9, lambda: finish(world))
    lines: list[str] = []
    printer = EventPrinter(world.run.submitted_time)
    status = follow_events(world.run, world.slurm, world.clock, printer, out=lines.append, say=lambda _: None)
    text = "\n".join(lines)
    assert status.final and all(text.count(word) == 1 for word in ("submitted", "on n2", "job finished"))


def test_kinds_match_whole_or_by_first_word(world):
    """--kind takes a kind, its first word, or the first word with a star."""
    world.event("checkpoint.saved")
    event = read_events(world.run.dir)[0]
    assert all(wanted(event, [kind]) for kind in ("checkpoint.saved", "checkpoint", "checkpoint.*"))
    assert wanted(event, []) and not wanted(event, ["check"]) and not wanted(event, ["checkpoint.failed"])


# ---------------------------------------------------------------- cancel


def cancel_it(world: World, **more: bool):
    return cancel(world.run, world.slurm, world.clock, host="login", user="alice", **more)


def test_cancel_ends_a_running_job_and_records_it(world):
    """The job is ended, and who did it is in the run's events."""
    done = cancel_it(world)
    assert done.changed and world.slurm.jobs([world.job_id])[0].state is JobState.CANCELLED
    (event,) = read_events(world.run.dir)
    assert (event.kind, event.job) == ("job.cancelled", world.job_id)
    assert event.reason == "cancelled by alice while it was running"
    assert (world.run.dir.events / "cli-login.jsonl").exists()


def test_cancel_twice_is_safe(world):
    """A second cancel changes nothing and says that the run has ended."""
    cancel_it(world)
    again = cancel_it(world)
    assert not again.changed and "has already ended" in again.message and len(read_events(world.run.dir)) == 1


def test_cancel_dry_run_changes_nothing(world):
    """A dry run says what would be done, and does nothing."""
    done = cancel_it(world, dry_run=True)
    assert done.message.startswith("would cancel tiny-1") and "cancel" not in world.slurm.calls
    assert read_events(world.run.dir) == []


def test_cancel_of_a_forgotten_job_is_safe(world):
    """A job that Slurm has forgotten counts as ended."""
    world.slurm.finish(world.job_id)
    world.slurm.forget(world.job_id)
    assert "no longer knows" in cancel_it(world).message


def test_cancel_needs_an_answer(world):
    """When Slurm does not answer, nothing is claimed to be cancelled, and the exit code is the one of that (7)."""
    world.slurm.controller_up = False
    with pytest.raises(ControllerDownError, match="was not cancelled") as caught:
        cancel_it(world)
    assert caught.value.exit_code == 7
    assert read_events(world.run.dir) == []


def test_refused_cancel_leaves_no_false_record(world):
    """When Slurm refuses, the run does not say that it was cancelled."""
    world.slurm.operator, world.slurm.user = False, "mallory"
    with pytest.raises(NotPermittedError):
        cancel_it(world)
    assert read_events(world.run.dir) == []


def test_cancel_does_not_hit_another_clusters_job(world, tmp_path):
    """A run of another cluster is refused, even where the same job id exists here under another name."""
    stranger = RunBuilder(tmp_path, "elsewhere", job_id=world.job_id, cluster="blue")
    with pytest.raises(NoSuchJobError, match="another cluster"):
        cancel(stranger.run, world.slurm, world.clock, host="login", user="alice")
    assert world.slurm.jobs([world.job_id])[0].state is JobState.RUNNING


def test_echoed_line_is_shown_as_the_ranks(world):
    """A line that is in the batch step's output and in the rank's file is shown once, as the rank's."""
    world.builder.job_log("srun: hello")

    def prints() -> None:
        world.say("step 1")
        world.builder.job_log(f"{iso(world.now)} step 1")

    world.clock.after(5, prints)
    world.clock.after(20, lambda: finish(world))
    follow(world.run, world.slurm, world.clock, world.screen)
    assert world.shown == ["[job] srun: hello", "[rank 0 n1] step 1"]
