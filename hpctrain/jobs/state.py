"""From what Slurm says and what the run has recorded to a state in plain words (pure).

Slurm is believed about whether a job exists and runs; the run's own events about how it ended, and about everything
once Slurm has forgotten the job (after ``MinJobAge``, 300 s by default) or does not answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from hpctrain.jobs.event import RUN_ENDS, Event
from hpctrain.jobs.reasons import explain
from hpctrain.jobs.records import Progress
from hpctrain.jobs.status import State
from hpctrain.jobs.text import ago, duration, plural
from hpctrain.slurm.model import Job, JobState

FRESH_S = 60.0
"""A job this young may not have reached the answer to a query yet, and a heartbeat this young shows life."""
SILENT_S = 300.0
"""Rank 0 without a heartbeat for longer than this (or ten steps) is worth a warning."""


class SlurmAnswer(str, Enum):
    """What came of asking Slurm for the job."""

    KNOWN = "known"
    FORGOTTEN = "forgotten"
    NO_ANSWER = "no answer"
    OTHER_CLUSTER = "other cluster"


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything the state is judged from.

    Attributes:
        job: the job as Slurm knows it; None unless ``answer`` is KNOWN.
        name: of the run, for the commands in advice.
        detail: for NO_ANSWER what is the matter with Slurm, for OTHER_CLUSTER the name of the run's own cluster.
        events: the run's events, in order of time.
        last_sign: when the run last wrote anything.
        step_time_s: typical duration of a step, None while unknown.
    """

    answer: SlurmAnswer
    now: float
    job: Job | None = None
    detail: str = ""
    name: str = ""
    events: Sequence[Event] = ()
    progress: Progress | None = None
    last_sign: float | None = None
    submitted_time: float | None = None
    step_time_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state, why, and what to do; see :class:`hpctrain.jobs.status.JobStatus`."""

    state: State
    explanation: str
    advice: str = ""
    final: bool = False
    succeeded: bool | None = None
    silent: bool = False


def judge(facts: Facts) -> Verdict:
    """Decide the state of a run."""
    if facts.job is None:
        return _without_slurm(facts)
    if facts.job.state is JobState.PENDING:
        return _pending(facts, facts.job)
    if facts.job.state is JobState.RUNNING:
        return _running(facts, facts.job)
    if facts.job.state is JobState.SUSPENDED:
        return Verdict(State.SUSPENDED, "Slurm has suspended it; an administrator or a job with more priority did that")
    if facts.job.state is JobState.UNKNOWN:
        return Verdict(State.UNKNOWN, "Slurm reports a state that this hpctrain does not know", "see 'scontrol show job'")
    return _ended(facts, facts.job)


def _pending(facts: Facts, job: Job) -> Verdict:
    reason = explain(job.reason)
    advice = reason.advice.replace("JOB", str(job.job_id))
    # Not by "job.started" alone: that event may be newer than Slurm's answer.
    newest = next((e.kind for e in reversed(facts.events) if e.kind in ("job.started", "job.requeued")), "")
    again = job.restarts > 0 or newest == "job.requeued"
    if "COMPLETING" in job.flags:
        sentence = "it goes back to the queue once its last nodes are cleaned up"
        return Verdict(State.REQUEUED, sentence, "a dead node delays this until Slurm declares it DOWN ('sinfo -R')")
    if job.held:
        return Verdict(State.HELD, reason.sentence, advice or f"let it go: scontrol release {job.job_id}")
    waited = facts.now - job.submit_time if job.submit_time else 0.0
    since = f", for {duration(waited)} now" if waited >= 5 else ""
    if not again:
        return Verdict(State.QUEUED, f"{reason.sentence}{since}", advice)
    requeued = _last(facts.events, "job.requeued")
    cause = f" ({requeued.reason})" if requeued and requeued.reason else ""
    return Verdict(State.REQUEUED, f"it was put back in the queue{cause}: {reason.sentence}{since}", advice)


def _running(facts: Facts, job: Job) -> Verdict:
    if "CONFIGURING" in job.flags:
        return Verdict(State.STARTING, "its nodes are being prepared")
    if batch_host_is_gone(job):
        return Verdict(
            State.RUNNING, f"{job.batch_host}, the node of its batch script, is gone; Slurm will not notice and keeps it"
            " running for ever", f"put it back in the queue with 'scontrol requeue {job.job_id}' or 'hpctrain logs -f"
            f" {facts.name}', which does that", silent=True,
        )
    current = events_of_last_start(facts.events)
    ended = next((event for event in reversed(current) if event.kind in ("job.finished", "job.failed")), None)
    if ended:
        how = "the work is complete" if ended.kind == "job.finished" else ended.reason or "it has failed"
        return Verdict(State.STOPPING, f"{how}; the job is being ended")
    if "COMPLETING" in job.flags:
        return Verdict(State.STOPPING, _being_ended(facts.events))
    stop = _last(current, "job.stop_requested")
    if stop and not _newer(current, "ranks.started", stop):
        return Verdict(State.STOPPING, f"the ranks were asked to save and stop{': ' + stop.reason if stop.reason else ''}")
    heartbeat = facts.progress.time if facts.progress else None
    started = _last(current, "job.started")
    if heartbeat is None or (started and heartbeat < started.time):
        return _starting(facts, job, current)
    return _working(facts, heartbeat)


def _being_ended(events: Sequence[Event]) -> str:
    """Slurm takes the job from its nodes, for good or to queue it again; it shows both alike."""
    newest = next((e for e in reversed(events) if e.kind in ("job.started", "job.requeued", "job.cancelled")), None)
    if newest is None or newest.kind == "job.started":
        return "the job is being ended"
    if newest.kind == "job.requeued":
        return "it goes back to the queue once its nodes are cleaned up"
    return f"{newest.reason or 'it was cancelled'}; the job is being ended"


def batch_host_is_gone(job: Job) -> bool:
    """The node with the batch script has been taken from a running job, so that nobody is left to end it.

    With ``--no-kill`` a job goes on without a node that has died, and Slurm does not replace its first one.
    """
    running = job.state is JobState.RUNNING and not job.flags & {"CONFIGURING", "COMPLETING"}
    return running and bool(job.batch_host) and bool(job.nodes) and job.batch_host not in job.nodes


def _starting(facts: Facts, job: Job, current: Sequence[Event]) -> Verdict:
    since = f"it started {ago(job.start_time, facts.now)}" if job.start_time else "it has started"
    if facts.last_sign is None and job.start_time and facts.now - job.start_time > SILENT_S:
        advice = f"look at 'hpctrain logs {facts.name}'"
        return Verdict(State.STARTING, f"{since}, but has not written anything yet", advice, silent=True)
    if _last(current, "trainer.started"):
        return Verdict(State.RUNNING, "the training loop has begun")
    if _last(current, "ranks.started"):
        # A script of the user's own never reports more than this.
        return Verdict(State.RUNNING, f"{since} and its ranks are running")
    return Verdict(State.STARTING, f"{since}; its ranks are not running yet")


def _working(facts: Facts, heartbeat: float) -> Verdict:
    doing = {
        "init": "getting ready", "data": "preparing data", "load": "loading a checkpoint", "step": "training",
        "save": "saving a checkpoint", "evaluate": "measuring the validation loss", "finish": "writing the result",
    }
    phase = facts.progress.phase if facts.progress else ""
    words = doing.get(phase, f"in phase {phase!r}" if phase else "training")
    if facts.progress and facts.progress.detail:
        words += f" ({facts.progress.detail})"
    age = facts.now - heartbeat
    if age > max(SILENT_S, 10 * (facts.step_time_s or 0)):
        step = f"; a step usually takes {duration(facts.step_time_s)}" if facts.step_time_s else ""
        sentence = f"it was {words} when rank 0 was last heard of, {duration(age)} ago{step}"
        return Verdict(State.RUNNING, sentence, f"it may hang: hpctrain logs {facts.name} --all --tail 50", silent=True)
    return Verdict(State.RUNNING, f"it is {words}; rank 0 was heard of {ago(heartbeat, facts.now)}")


_ENDS = {
    JobState.FAILED: "its batch script ended with an error", JobState.TIMEOUT: "it reached its time limit",
    JobState.NODE_FAIL: "one of its nodes failed", JobState.PREEMPTED: "a job with more priority took its nodes",
    JobState.BOOT_FAIL: "its nodes did not boot", JobState.DEADLINE: "it could not end before its deadline",
    JobState.OUT_OF_MEMORY: "a node ran out of the memory that the job was given",
}

_EXITS = {
    9: ": the run directory could not be written, its file system may be full or read-only",
    74: ": the ranks ended, but the result could not be written to the run directory",
    75: ": it could not be put back in the queue",
}
"""Exit codes of the batch script whose cause may have had no place to be written down."""


def _ended(facts: Facts, job: Job) -> Verdict:
    if job.state is JobState.PREEMPTED and "COMPLETING" in job.flags:
        # Seen on the way back into the queue as well; only a PREEMPTED that stays is an end.
        return Verdict(State.STOPPING, "a job with more priority takes its nodes")
    if job.state is JobState.COMPLETED:
        return _finished(facts)
    if job.state is JobState.CANCELLED:
        return Verdict(State.CANCELLED, _who_cancelled(facts), final=True, succeeded=False)
    why = _ENDS.get(job.state, f"Slurm ended it as {job.state.value}")
    if job.state is JobState.FAILED and job.exit_signal:
        why = f"its batch script was ended by signal {job.exit_signal}"
    elif job.state is JobState.FAILED and job.exit_code is not None:
        why += f" (exit code {job.exit_code}{_EXITS.get(job.exit_code, '')})"
    return _failed(facts, why)


def _without_slurm(facts: Facts) -> Verdict:
    """The run's own records are all there is."""
    current = events_of_last_start(facts.events)
    end = next((event for event in reversed(current) if event.kind in (*RUN_ENDS, "job.requeued")), None)
    if end and end.kind == "job.finished":
        return _finished(facts)
    if end and end.kind == "job.failed":
        return _failed(facts, "it failed")
    if end and end.kind == "job.cancelled":
        return Verdict(State.CANCELLED, _who_cancelled(facts), final=True, succeeded=False)
    heard = "the run has written nothing"
    if facts.last_sign:
        heard = f"the run was last heard of {ago(facts.last_sign, facts.now)}"
    if facts.answer is SlurmAnswer.NO_ANSWER:
        alive = facts.progress is not None and facts.now - facts.progress.time < FRESH_S
        return Verdict(
            State.RUNNING if alive else State.UNKNOWN, f"{facts.detail}; {heard}",
            "" if alive else "Slurm will tell more once it can be reached",
        )
    if facts.answer is SlurmAnswer.OTHER_CLUSTER:
        private = facts.detail.removeprefix("hpctrain-")
        advice = f"a private cluster is chosen with 'hpctrain --cluster {private} ...', a site's with SLURM_CONF"
        return Verdict(State.UNKNOWN, f"it was submitted to another cluster, {facts.detail!r}; {heard}", advice)
    started = _last(current, "job.started")
    if facts.submitted_time and facts.now - facts.submitted_time < FRESH_S and not started:
        return Verdict(State.QUEUED, "it was submitted a moment ago and Slurm does not list it yet")
    return Verdict(
        State.UNKNOWN, f"Slurm no longer knows the job, and the run has recorded no end; {heard}",
        f"its logs may tell more: hpctrain logs {facts.name} --all --tail 50", final=True,
    )


def _finished(facts: Facts) -> Verdict:
    done = _last(facts.events, "job.finished")
    step = next((e.step for e in reversed(facts.events) if e.kind == "trainer.finished" and e.step is not None), None)
    sentence = f"the work is complete{' after ' + plural(step, 'step') if step else ''}"
    return Verdict(State.FINISHED, done.reason if done and done.reason else sentence, final=True, succeeded=True)


def _failed(facts: Facts, why: str) -> Verdict:
    current = events_of_last_start(facts.events)
    verdict = next((e for e in reversed(current) if e.kind == "job.failed" and e.reason), None)
    cause = verdict or next((e for e in reversed(current) if e.kind in ("rank.failed", "node.lost") and e.reason), None)
    sentence = verdict.reason if verdict else why + (f"; before that: {cause.reason}" if cause else "")
    where = f" on {cause.node}" if cause and cause.node and cause.node not in sentence else ""
    look = f"hpctrain logs {facts.name} --all --tail 50"
    hint = _own_hint(verdict) if verdict else ""
    advice = f"{hint} (the last lines before the end: {look})" if hint else f"read the last lines before the end: {look}"
    return Verdict(State.FAILED, sentence + where, advice, final=True, succeeded=False)


def _own_hint(verdict: Event) -> str:
    """What the program itself said to do, as errors of ours do in their second line; "" where it said nothing."""
    lines = str(verdict.evidence.get("traceback") or "").splitlines()
    return next((line.removeprefix("hint:").strip() for line in reversed(lines) if line.startswith("hint:")), "")


def _who_cancelled(facts: Facts) -> str:
    event = _last(facts.events, "job.cancelled")
    if event is None:
        return "it was cancelled with Slurm's own commands or by an administrator"
    return event.reason or "it was cancelled"


def events_of_last_start(events: Sequence[Event]) -> Sequence[Event]:
    """The events since the batch script was last started; all of them if it never was."""
    for index in range(len(events) - 1, -1, -1):
        if events[index].kind == "job.started":
            return events[index:]
    return events


def _last(events: Sequence[Event], kind: str) -> Event | None:
    return next((event for event in reversed(events) if event.kind == kind), None)


def _newer(events: Sequence[Event], kind: str, than: Event) -> bool:
    return any(event.kind == kind and event.time > than.time for event in events)
