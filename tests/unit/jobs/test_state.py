"""States in plain words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.event import Event
from hpctrain.jobs.records import Progress
from hpctrain.jobs.state import Facts, SlurmAnswer, judge
from hpctrain.slurm.model import Job, JobState

NOW = 10_000.0
PENDING = Job(JobId(7), "tiny", "alice", JobState.PENDING, reason="Resources", submit_time=NOW - 90)
RUNNING = Job(JobId(7), "tiny", "alice", JobState.RUNNING, start_time=NOW - 60)


def happened(*kinds: str, **more: object) -> list[Event]:
    """Events one second apart, the last one just now."""
    return [Event(NOW - len(kinds) + i, "coordinator", kind, **more) for i, kind in enumerate(kinds)]  # type: ignore[arg-type]


def known(job: Job, **more: object) -> Facts:
    """Slurm knows the job."""
    return Facts(SlurmAnswer.KNOWN, NOW, job, name="tiny", **more)  # type: ignore[arg-type]


def test_pending_is_explained_with_the_time_waited():
    """A queued job says why it waits and for how long."""
    verdict = judge(known(PENDING))
    assert verdict.state == "queued" and not verdict.final
    assert "busy with other jobs" in verdict.explanation and "1m 30s" in verdict.explanation


def test_pending_after_a_start_is_requeued():
    """A job that has run before waits to go on, and says what put it back."""
    events = [*happened("job.started"), Event(NOW, "coordinator", "job.requeued", reason="the time limit was near")]
    verdict = judge(known(replace(PENDING, reason="BeginTime", restarts=1), events=events))
    assert verdict.state == "requeued" and "the time limit was near" in verdict.explanation


def test_start_event_newer_than_slurms_answer_is_no_requeue():
    """A job that started after Slurm was asked has not been put back in the queue."""
    assert judge(known(PENDING, events=happened("job.submitted", "job.started"))).state == "queued"


def test_held_says_how_to_release():
    """A held job names the command that lets it go."""
    verdict = judge(known(replace(PENDING, reason="JobHeldUser")))
    assert verdict.state == "held" and verdict.advice == "let it go: scontrol release 7"


def test_completing_requeue_waits_for_nodes():
    """A requeued job whose old nodes are still being cleaned up says so."""
    verdict = judge(known(replace(PENDING, flags=frozenset({"COMPLETING"}))))
    assert verdict.state == "requeued" and "cleaned up" in verdict.explanation


def test_running_without_ranks_is_starting():
    """Between the batch script and the ranks the run is starting."""
    assert judge(known(RUNNING, events=happened("job.started"))).state == "starting"


def test_running_says_what_rank_0_does():
    """A heartbeat's phase is put in words, with its detail."""
    verdict = judge(known(RUNNING, progress=Progress(NOW - 3, "data", detail="tokenising 40%")))
    assert verdict.state == "running"
    assert verdict.explanation == "it is preparing data (tokenising 40%); rank 0 was heard of 3s ago"


def test_old_heartbeat_of_the_last_start_does_not_count():
    """After a restart the heartbeat of the start before is not taken for life."""
    verdict = judge(known(RUNNING, events=happened("job.started"), progress=Progress(NOW - 50, "step", 9)))
    assert verdict.state == "starting"


@pytest.mark.parametrize(
    ("age_s", "step_time_s", "silent"), [(200, None, False), (400, None, True), (400, 60.0, False), (700, 60.0, True)],
)
def test_silence_is_measured_in_steps(age_s, step_time_s, silent):
    """Rank 0 is silent after five minutes, or ten steps where steps are long."""
    verdict = judge(known(RUNNING, progress=Progress(NOW - age_s, "step", 9), step_time_s=step_time_s))
    assert verdict.state == "running" and verdict.silent is silent


def test_a_script_of_the_users_own_is_running_once_its_ranks_are():
    """A command recipe writes no heartbeat; started ranks are enough."""
    assert judge(known(RUNNING, events=happened("job.started", "ranks.started"))).state == "running"


def test_a_gone_batch_host_is_told():
    """A job whose batch script's node is no longer its own has nobody left to end it: said, with what to do."""
    job = replace(RUNNING, batch_host=NodeName("n1"), nodes=(NodeName("n2"),))
    events = happened("job.started", "ranks.started")
    verdict = judge(known(job, events=events, progress=Progress(NOW - 3, "step", 9)))
    assert verdict.silent and "n1" in verdict.explanation and "scontrol requeue 7" in verdict.advice
    whole = replace(job, nodes=(NodeName("n1"), NodeName("n2")))
    assert not judge(known(whole, events=events)).silent


@pytest.mark.parametrize(("kind", "words"), [
    ("job.cancelled", "cancelled by alice; the job is being ended"), ("job.requeued", "back to the queue"),
    ("ranks.started", "the job is being ended"),
])
def test_completing_is_not_running(kind, words):
    """A job that Slurm is taking from its nodes is being ended, whatever its last heartbeat says."""
    job = replace(RUNNING, flags=frozenset({"COMPLETING"}))
    events = [*happened("job.started"), Event(NOW, "cli", kind, reason="cancelled by alice")]
    verdict = judge(known(job, events=events, progress=Progress(NOW, "step", 9)))
    assert verdict.state == "stopping" and words in verdict.explanation and not verdict.final


@pytest.mark.parametrize("state", [s for s in JobState if s.finished])
def test_ends_are_final(state):
    """Every end state of Slurm is final, and only COMPLETED is a success."""
    verdict = judge(known(replace(RUNNING, state=state)))
    assert verdict.final and verdict.succeeded is (state is JobState.COMPLETED) and verdict.explanation


def test_preempted_and_completing_may_go_on():
    """PREEMPTED with COMPLETING is seen on the way back to the queue: not an end."""
    assert not judge(known(replace(RUNNING, state=JobState.PREEMPTED, flags=frozenset({"COMPLETING"})))).final


def test_verdict_of_the_coordinator_beats_slurms_exit_code():
    """The reason recorded by the job explains a failure better than an exit code."""
    events = [Event(NOW, "coordinator", "job.failed", reason="three restarts made no progress")]
    verdict = judge(known(replace(RUNNING, state=JobState.FAILED, exit_code=1), events=events))
    assert verdict.explanation == "three restarts made no progress"


@pytest.mark.parametrize(("code", "words"), [(9, "may be full"), (74, "result could not"), (75, "back in the queue")])
def test_exit_codes_of_our_own_are_told_in_words(code, words):
    """Where the disk was too full to say why, the batch script's exit code still tells."""
    assert words in judge(known(replace(RUNNING, state=JobState.FAILED, exit_code=code))).explanation


def test_failure_without_verdict_names_the_failed_rank():
    """Without a verdict Slurm's word and the last failed rank are told."""
    events = [Event(NOW, "agent", "rank.failed", node="n2", reason="rank 3 was killed by SIGKILL")]
    verdict = judge(known(replace(RUNNING, state=JobState.FAILED, exit_code=137), events=events))
    assert "exit code 137" in verdict.explanation and "rank 3 was killed by SIGKILL on n2" in verdict.explanation


def test_what_to_do_is_what_the_program_said() -> None:
    """An error that says what to do is not answered with "read the log"; one that says nothing is."""
    told = {"traceback": "error: data: it holds no rows\nhint:  give it rows\n"}
    for evidence, advice in ((told, "give it rows (the last lines before the end: hpctrain logs r --all --tail 50)"),
                             ({}, "read the last lines before the end: hpctrain logs r --all --tail 50")):
        event = Event(NOW, "coordinator", "job.failed", reason="hopeless", evidence=evidence)
        assert judge(Facts(SlurmAnswer.FORGOTTEN, NOW, name="r", events=[event])).advice == advice


@pytest.mark.parametrize(
    ("kind", "state"), [("job.finished", "finished"), ("job.failed", "failed"), ("job.cancelled", "cancelled")],
)
def test_forgotten_job_is_judged_by_its_own_record(kind, state):
    """Once Slurm has forgotten the job, its own last word counts."""
    verdict = judge(Facts(SlurmAnswer.FORGOTTEN, NOW, events=happened("job.submitted", "job.started", kind)))
    assert verdict.state == state and verdict.final


def test_an_end_before_the_last_start_is_no_end():
    """A verdict of an earlier start does not count after a later one."""
    verdict = judge(Facts(SlurmAnswer.FORGOTTEN, NOW, events=happened("job.started", "job.failed", "job.started")))
    assert verdict.state == "unknown"


def test_forgotten_without_an_end_is_unknown_and_over():
    """A job that vanished without a word is over, and nobody pretends to know how it ended."""
    verdict = judge(Facts(SlurmAnswer.FORGOTTEN, NOW, events=happened("job.started"), last_sign=NOW - 500))
    assert verdict.state == "unknown" and verdict.final and verdict.succeeded is None
    assert "no longer knows" in verdict.explanation and "8m ago" in verdict.explanation


def test_fresh_job_not_listed_yet_is_queued():
    """Right after submission a query may not show the job yet."""
    verdict = judge(Facts(SlurmAnswer.FORGOTTEN, NOW, events=happened("job.submitted"), submitted_time=NOW - 2))
    assert verdict.state == "queued" and not verdict.final


def test_no_answer_believes_a_fresh_heartbeat():
    """While Slurm does not answer, a fresh heartbeat shows that the run lives; an old one shows nothing."""
    facts = Facts(SlurmAnswer.NO_ANSWER, NOW, detail="Slurm does not answer: timed out")
    facts = replace(facts, progress=Progress(NOW - 5, "step", 3))
    assert judge(facts).state == "running"
    old = judge(replace(facts, progress=Progress(NOW - 500, "step", 3)))
    assert old.state == "unknown" and not old.final


def test_other_cluster_is_named():
    """A run of another cluster says which one, and how to look there."""
    verdict = judge(Facts(SlurmAnswer.OTHER_CLUSTER, NOW, detail="blue"))
    assert "'blue'" in verdict.explanation and "--cluster blue" in verdict.advice and not verdict.final
