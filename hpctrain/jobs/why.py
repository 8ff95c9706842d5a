"""Why a run waits, was started again, or has stopped: in sentences, with the evidence for each (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.jobs.event import Event, saved_tier
from hpctrain.jobs.incident import OPEN, STOPPED, Incident, cause_words
from hpctrain.jobs.incident_text import kept, outcome, phases, rung_words, seconds, title
from hpctrain.jobs.report import sentence
from hpctrain.jobs.state import events_of_last_start
from hpctrain.jobs.status import JobStatus, State
from hpctrain.jobs.text import duration, iso, plural, stamp
from hpctrain.slurm.model import Job, Node

WAITS, RESTARTED, STOPS, RUNS = "waits", "restarted", "stopped", "runs"
SHOWN = 5
"""Restarts that are told one by one, the newest; earlier ones are counted by cause."""
NODES_SHOWN = 8
DRILL_S = 3.0
"""A failure so close to a drill is the drill's."""
_WAITING = (State.QUEUED, State.HELD, State.REQUEUED)
_RULES = {
    "max_restarts": "it had been started again as often as resilience.max_restarts allows",
    "no_progress": "the last starts had completed no new step (resilience.max_restarts_without_progress)",
    "window": "there were too many failures within a short time (resilience.restarts_per_window)",
    "same_failure": "the same failure had come back each time: a restart would only repeat it (resilience.max_same_failure)",
}
_SEEN_BY = {
    "pidfd": "the end of its process was seen", "agent_heartbeat": "its agent was silent", "hang": "progress was missed",
    "loss": "the loss was watched", "throughput": "the speed was watched", "log_rule": "a line of output matched a rule",
    "node_health": "its node's checks said so", "slurm": "Slurm said so", "drill": "a drill caused it",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One answer.

    Attributes:
        topic: ``waits``, ``restarted``, ``stopped`` or ``runs``.
        sentence: for people, beginning in lower case, without a full stop.
        evidence: what it rests on: events with their time and source, and what Slurm says.
        advice: what can be done, "" for nothing.
        time: when it happened, None for what is so now.
    """

    topic: str
    sentence: str
    evidence: tuple[str, ...] = ()
    advice: str = ""
    time: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"topic": self.topic, "sentence": self.sentence, "evidence": list(self.evidence), "advice": self.advice,
                "time": self.time, "time_iso": iso(self.time)}


@dataclass(frozen=True, slots=True)
class Known:
    """Everything the answers are made from.

    Attributes:
        job: as Slurm knows it, None where it does not.
        nodes: of the cluster, asked only for a job that waits.
    """

    status: JobStatus
    events: Sequence[Event]
    incidents: Sequence[Incident]
    now: float
    job: Job | None = None
    nodes: Sequence[Node] = field(default=())


def why(known: Known) -> list[Statement]:
    """The answers: first what is so now, then why it was started again, the newest first."""
    state = known.status.state
    found: list[Statement] = []
    if state in _WAITING:
        found.append(_waits(known))
    elif state is State.FAILED or state is State.CANCELLED:
        found.append(_stopped(known))
    else:
        found.append(_runs(known))
    return found + _restarts(known)


def _waits(known: Known) -> Statement:
    status, job = known.status, known.job
    evidence: list[str] = []
    if job is not None:
        slurm = f"Slurm: {job.state.value}" + (f", reason {job.reason}" if job.reason else "")
        queued = f", queued since {stamp(job.submit_time)}" if job.submit_time else ""
        evidence.append(slurm + queued + (f", priority {job.priority}" if job.priority else ""))
        if job.start_time and job.start_time > known.now:
            left = duration(job.start_time - known.now)
            evidence.append(f"Slurm expects to start it at {stamp(job.start_time)}, in {left}")
        evidence += _room(job, known.nodes)
        if job.excluded_nodes:
            evidence.append(f"it may not use {_some(job.excluded_nodes)}")
    elif status.slurm_error:
        evidence.append(status.slurm_error)
    evidence += [_told(event) for event in known.events if event.kind == "node.excluded" and _still(event, known.now)]
    if requeued := _last(known.events, "job.requeued"):
        evidence.append(_told(requeued))
    return Statement(WAITS, status.explanation, tuple(evidence), status.advice)


def _room(job: Job, nodes: Sequence[Node]) -> list[str]:
    """What the nodes of the job's partition do, and which are out of service for what reason."""
    offered = [node for node in nodes if not job.partition or set(job.partition.split(",")) & set(node.partitions)]
    if not offered:
        return []
    free = [node for node in offered if node.available and node.state == "IDLE" and node.name not in job.excluded_nodes]
    busy = [node for node in offered if node.available and node.state != "IDLE"]
    out = [node for node in offered if not node.available]
    where = f" of partition {job.partition}" if job.partition else ""
    asks = f"it asks for {plural(job.num_nodes, 'node')}; " if job.num_nodes else ""
    lines = [f"{asks}{len(free)} of {plural(len(offered), 'node')}{where} "
             f"{'is' if len(free) == 1 else 'are'} free, {len(busy)} busy, {len(out)} out of service"]
    lines += [f"{node.name} is {node.state.lower()}{'+' + '+'.join(sorted(node.flags)).lower() if node.flags else ''}"
              + (f": {node.reason}" if node.reason else "") for node in out[:NODES_SHOWN]]
    if len(out) > NODES_SHOWN:
        lines.append(f"{len(out) - NODES_SHOWN} more: hpctrain nodes list")
    return lines


def _stopped(known: Known) -> Statement:
    status = known.status
    current = events_of_last_start(known.events)
    verdict = _last(current, "job.failed") or _last(current, "job.cancelled")
    signs = ("rank.failed", "node.lost", "fault.detected", "hang.stacks")
    evidence = [_told(event) for event in current if event.kind in signs][-3:]
    if verdict is not None:
        facts = verdict.evidence
        evidence.append(_told(verdict))
        if rule := str(facts.get("rule") or ""):
            evidence.append(f"the limit that was reached: {_RULES.get(rule, rule)}")
        if facts.get("attempts"):
            evidence.append(f"failures counted: {facts['attempts']}")
        if facts.get("exit_code") is not None:
            evidence.append(f"exit code {facts['exit_code']}")
        checkpoint = str(facts.get("checkpoint") or "")
        if checkpoint or (checkpoint := _newest_checkpoint(known.events)):
            evidence.append(f"the newest checkpoint is {checkpoint}")
        if lines := str(facts.get("traceback") or "").rstrip().splitlines():
            evidence += ["the program's last words:", *(f"  {line}" for line in lines[-12:])]
    elif status.slurm_state:
        evidence.append(f"Slurm: {status.slurm_state}" + (f", reason {status.reason}" if status.reason else ""))
    return Statement(STOPS, status.explanation, tuple(evidence), status.advice, status.ended_time)


def _runs(known: Known) -> Statement:
    status = known.status
    newest = known.incidents[-1] if known.incidents else None
    evidence = [f"Slurm: {status.slurm_state}"] if status.slurm_state else []
    if status.slurm_error:
        evidence.append(status.slurm_error)
    if status.step is not None:
        evidence.append(f"step {status.step}" + (f" of {status.total_steps}" if status.total_steps else "")
                        + (f", heard of {duration(status.heartbeat_age_s)} ago" if status.heartbeat_age_s is not None
                           and not status.final else ""))
    if newest is not None and newest.outcome == OPEN and not status.final:
        since = duration(known.now - newest.fault_time)
        evidence.insert(0, f"it is being brought back since {since}: {title(newest)}")
    return Statement(RUNS, status.explanation, tuple(evidence), status.advice)


def _restarts(known: Known) -> list[Statement]:
    told = [one for one in known.incidents if one.outcome != STOPPED]
    shown = told[-SHOWN:]
    found = [_restarted(one, known.events) for one in reversed(shown)]
    earlier = told[: len(told) - len(shown)]
    if earlier:
        causes = Counter(cause_words(one.cause) for one in earlier)
        words = ", ".join(f"{number} x {cause}" for cause, number in causes.most_common())
        found.append(Statement(RESTARTED, f"{len(earlier)} times before that: {words}", time=earlier[-1].fault_time,
                               advice=f"all of them: hpctrain report {known.status.name} -o json"))
    return found


def _restarted(one: Incident, events: Sequence[Event]) -> Statement:
    text = f"{title(one)}; {outcome(one)}"
    evidence: list[str] = []
    for event in events:
        caused = event.evidence.get("caused") if event.kind == "drill.caused" else None
        if isinstance(caused, (int, float)) and -DRILL_S <= one.fault_time - caused <= DRILL_S:
            evidence.append(f"it was done on purpose: {event.reason}")
    if one.known_time is not None:
        seen = _SEEN_BY.get(one.detected_by, one.detected_by)
        took = f"known after {seconds(one.phases['detect'])}" if "detect" in one.phases else "known"
        at = f", at step {one.step}" if one.step is not None else ""
        evidence.append(took + (f", because {seen}" if seen else "") + at)
    rung = " and then ".join(f"{rung} ({rung_words(rung)})" if rung_words(rung) else rung for rung in one.tried)
    if rung or one.action:
        evidence.append((rung + (f": {one.action}" if one.action else "")) or one.action)
    if timed := phases(one):
        evidence.append(timed)
    if source := kept(one):
        evidence.append(source)
    stacks = [event for event in events if event.kind == "hang.stacks" and event.time >= one.fault_time
              and (one.ended_time is None or event.time <= one.ended_time)]
    evidence += [_told(event) for event in stacks[:1]]
    if not one.measured:
        evidence.append("pieced together from what the run recorded; the coordinator did not time it")
    return Statement(RESTARTED, text, tuple(evidence), time=one.fault_time)


def _told(event: Event) -> str:
    """An event as evidence: when, by whom, what."""
    return " ".join(f"{stamp(event.time)} {event.source}: {sentence(event)}".split())


def _still(event: Event, now: float) -> bool:
    until = event.evidence.get("until")
    return not isinstance(until, (int, float)) or until > now


def _newest_checkpoint(events: Sequence[Event]) -> str:
    saved = next((event for event in reversed(events) if saved_tier(event)), None)
    return "" if saved is None else f"step {saved.step} in the {saved_tier(saved)} tier"


def _last(events: Sequence[Event], kind: str) -> Event | None:
    return next((event for event in reversed(events) if event.kind == kind), None)


def _some(names: Sequence[str], limit: int = 6) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
