"""From the events of a run to its incidents: what failed, what was done, how long each part took (pure).

The coordinator tells of a failure in three events: ``fault.detected``, ``recovery.started`` and ``recovery.finished``. A
requeue (R3) spreads them over two starts of the batch script. Runs made before these events existed, and starts whose
coordinator died, left only traces such as ``rank.failed``, ``job.requeued`` and ``step.first``; from those the same
incidents are pieced together, with fewer phases and ``measured`` false.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hpctrain.jobs.event import Event
from hpctrain.jobs.incident import CANCELLED, OVERTAKEN, PHASES, RECOVERED, STOPPED, Incident
from hpctrain.jobs.incident_draft import Draft, completed_by_metrics, piece_together, with_queue
from hpctrain.jobs.records import Restart, real, whole

SAME_FAULT_S = 10.0
"""Agents tell of their own dead ranks; what comes this soon after belongs to the fault that is known already."""


def find_incidents(events: Sequence[Event], restarts: Sequence[Restart] = ()) -> list[Incident]:
    """All incidents of a run in order of time.

    Args:
        events: of all sources, in order of time.
        restarts: where incarnations change in the metrics; they tell the steps done again, and when the last step before a
            fault was done that nobody saw.
    """
    reader = _Reader()
    for event in events:
        reader.read(event)
    return [completed_by_metrics(draft, restarts).made(index) for index, draft in enumerate(reader.drafts, start=1)]


class _Reader:
    """Reads events one by one; ``drafts`` are the incidents so far, the last one perhaps still open."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self._open: Draft | None = None
        self._last_time = 0.0
        self._last_step: int | None = None
        self._starts = 0
        self._ended = False
        self._stop: Event | None = None
        self._orphan: Event | None = None
        self._kinds: Mapping[str, Callable[[Event], None]] = {
            "fault.detected": self._fault, "rank.failed": self._trace, "node.lost": self._trace,
            "recovery.started": self._recovery, "recovery.finished": self._finished, "job.requeued": self._requeued,
            "agent.lost_coordinator": self._orphaned,
            "job.stop_requested": self._stop_asked, "job.started": self._started, "ranks.started": self._ranks,
            "checkpoint.restored": self._restored, "step.first": self._first_step, "job.failed": self._failed,
            "job.finished": self._done, "job.cancelled": self._cancelled,
        }

    def read(self, event: Event) -> None:
        """Take one more event."""
        if (take := self._kinds.get(event.kind)) is not None:
            take(event)
        if event.source in ("coordinator", "agent", "trainer", "writer"):
            self._last_time = event.time
        if event.step is not None and event.kind != "checkpoint.restored":
            self._last_step = event.step

    def _begin(self, event: Event, cause: str, fault_time: float | None = None) -> Draft:
        if self._open is not None:
            self._open.close(OVERTAKEN, event.time)
        draft = Draft(fault_time or event.time, cause, event.reason, step=event.step)
        self.drafts.append(draft)
        self._open = draft
        return draft

    def _fault(self, event: Event) -> None:
        facts = event.evidence
        draft = self._open
        # The agent may have told of the dead rank already; a fault after something was done about the last is a new one.
        if draft is None or draft.acted or (draft.measured and event.time - draft.fault_time > SAME_FAULT_S):
            draft = self._begin(event, "")
        first = not draft.measured
        if first:
            draft.cause = str(facts.get("cause") or draft.cause)
            draft.reason = event.reason or draft.reason
            if facts.get("nodes") and event.reason:
                draft.nodes, draft.ranks = [], []  # those that the sentence speaks of, not whom an agent saw first
            draft.fault_time = _sane(real(facts.get("fault_time")), event.time, event.time)
            draft.known_time, draft.measured, draft.guessed = event.time, True, False
            draft.detected_by = str(facts.get("detected_by") or "")
            draft.step = event.step if event.step is not None else draft.step
            draft.phases["detect"] = max(0.0, event.time - draft.fault_time)
        draft.fingerprint = draft.fingerprint or str(facts.get("fingerprint") or "")
        code = whole(facts.get("exit_code"))
        draft.exit_code = code if draft.exit_code is None else draft.exit_code
        draft.climb(str(facts.get("rung") or ""))
        draft.blame(event)

    def _trace(self, event: Event) -> None:
        draft = self._open
        first = draft is None
        if draft is None:
            draft = self._begin(event, "node" if event.kind == "node.lost" else "rank")
            draft.step = event.step if event.step is not None else self._last_step
        elif not draft.acted and event.kind == "node.lost":
            # A node is found to be lost after the ranks that it took along, or that missed it.
            draft.learn("node", event.reason)
            draft.nodes, draft.ranks = [], []
        draft.traceback = draft.traceback or str(event.evidence.get("traceback") or "")
        # The first to die is to blame: ranks of other nodes fail a moment later, because they miss it.
        if (first and not draft.measured) or (event.kind == "node.lost" and not draft.acted):
            draft.blame(event)

    def _recovery(self, event: Event) -> None:
        facts = event.evidence
        draft = self._open or self._begin(event, str(facts.get("cause") or ""))
        draft.climb(str(facts.get("rung") or ""))
        draft.acted = draft.measured = True
        blamed = [str(name) for name in facts.get("blamed") or ()]
        draft.learn(str(facts.get("cause") or ""), str(facts.get("reason") or ""), blamed)
        draft.action = str(facts.get("reason") or "") or event.reason or draft.action
        draft.incarnation = whole(facts.get("incarnation"))
        if draft.known_time is None:
            draft.known_time = event.time

    def _finished(self, event: Event) -> None:
        facts = event.evidence
        number = whole(facts.get("incarnation"))
        draft = self._open
        if draft is None and self.drafts and self.drafts[-1].outcome == RECOVERED:
            last = self.drafts[-1]
            draft = last if number is None or last.incarnation in (None, number) else None
        draft = draft or self._begin(event, str(facts.get("cause") or ""), real(facts.get("fault_time")))
        draft.measured = draft.acted = True
        draft.cause = str(facts.get("cause") or draft.cause)
        draft.climb(str(facts.get("rung") or ""))
        draft.fault_time = _sane(real(facts.get("fault_time")), draft.fault_time, event.time)
        total = real(facts.get("total_s"))
        draft.mended_time = draft.fault_time + total if total is not None and total >= 0 else event.time
        told = {name: seconds for name in PHASES if (seconds := real(facts.get(f"{name}_s"))) is not None and seconds >= 0}
        draft.phases = with_queue(told, draft, draft.mended_time - draft.fault_time)
        draft.redone = _first(whole(facts.get("redone_steps")), draft.redone)
        draft.restored_step = _first(whole(facts.get("restored_step")), draft.restored_step)
        draft.tier = str(facts.get("tier") or draft.tier)
        draft.incarnation = _first(number, draft.incarnation)
        draft.close(RECOVERED, draft.mended_time)
        self._open = None

    def _orphaned(self, event: Event) -> None:
        # An agent that was stopped itself misses a coordinator that lives: only a requeue makes this a failure.
        if event.evidence.get("fate") == "alone" and self._orphan is None:
            self._orphan = event

    def _stop_asked(self, event: Event) -> None:
        self._stop = event

    def _requeued(self, event: Event) -> None:
        draft = self._open
        if draft is not None and draft.requeued is not None:
            return  # a coordinator that was silent and lives after all, and knows less than the agents did
        if draft is None:
            cause = _cause_in(event)
            planned = self._stop is not None and cause in ("time_limit", "preemption", "maintenance")
            sign = self._stop if planned else self._orphan if cause == "coordinator" else None
            draft = self._begin(event, cause, sign.time if sign else None)
            draft.step = event.step if event.step is not None else self._last_step
        else:
            draft.learn(str(event.evidence.get("cause") or ""), event.reason)
        draft.climb("R3")
        draft.acted, draft.requeued = True, event.time
        draft.action = draft.action or event.reason

    def _started(self, event: Event) -> None:
        self._starts += 1
        draft = self._open
        if draft is None and self._starts > 1 and not self._ended:
            # Nobody told of it: the node with the coordinator died, or Slurm or somebody else queued the job again.
            draft = self._begin(event, _unseen(event), self._last_time or None)
            draft.guessed = True
            draft.step = self._last_step
            draft.reason = "the job was started again, and nothing recorded why its last start ended"
        if draft is not None and self._starts > 1:
            draft.climb("R3")
            draft.acted, draft.started = True, event.time
            # A start that never came to its ranks may be followed by another; the queue is what passed in between.
            if draft.requeued is not None:
                draft.phases["queue"] = draft.phases.get("queue", 0.0) + max(0.0, event.time - draft.requeued)
                draft.requeued = None
        self._stop, self._orphan, self._ended = None, None, False

    def _ranks(self, event: Event) -> None:
        draft = self._open
        if draft is not None and draft.acted:
            draft.ranks_started = draft.ranks_started or event.time
            number = whole(event.evidence.get("incarnation"))
            draft.incarnation = number if draft.incarnation is None or number is None else max(draft.incarnation, number)

    def _restored(self, event: Event) -> None:
        draft = self._open
        if draft is None or not draft.acted:
            return
        draft.restored = event.time
        draft.restored_step = event.step
        draft.redone = _first(whole(event.evidence.get("steps_lost")), draft.redone)
        tiers = event.evidence.get("tiers")
        draft.tier = str(next(iter(tiers), "")) if isinstance(tiers, Mapping) else draft.tier
        seconds = real(event.evidence.get("seconds"))
        if seconds is not None:
            draft.phases["state"] = seconds

    def _first_step(self, event: Event) -> None:
        draft = self._open
        if draft is None or not draft.acted:
            return
        number = whole(event.evidence.get("incarnation"))
        if None not in (number, draft.incarnation) and number != draft.incarnation:
            return  # a late word of the ranks that died
        draft.mended_time = event.time
        took = real(event.evidence.get("seconds"))
        if took is not None:
            draft.phases["first_step"] = took
        piece_together(draft)
        draft.close(RECOVERED, event.time)
        self._open = None

    def _failed(self, event: Event) -> None:
        facts = event.evidence
        draft = self._open or self._begin(event, str(facts.get("cause") or ""))
        draft.cause = str(facts.get("cause") or draft.cause)
        draft.climb("R4")
        draft.action = event.reason
        draft.reason = draft.reason or event.reason
        draft.traceback = str(facts.get("traceback") or draft.traceback)
        draft.rule, draft.fingerprint = str(facts.get("rule") or ""), str(facts.get("fingerprint") or draft.fingerprint)
        draft.exit_code = _first(whole(facts.get("exit_code")), draft.exit_code)
        draft.step = event.step if draft.step is None else draft.step
        draft.close(STOPPED, event.time)
        self._open, self._ended = None, True

    def _done(self, event: Event) -> None:
        if self._open is not None:
            # Everything that remained was done without a step: the work had been complete, or only its end was missing.
            self._open.mended_time = event.time
            self._open.close(RECOVERED, event.time)
        self._open, self._ended = None, True

    def _cancelled(self, event: Event) -> None:
        if self._open is not None:
            self._open.close(CANCELLED, event.time)
        self._open, self._ended = None, True


def _cause_in(event: Event) -> str:
    told = str(event.evidence.get("cause") or "")
    text = event.reason.lower()
    words = {"time limit": "time_limit", "priority": "preemption", "preempt": "preemption", "maintenance": "maintenance",
             "node ": "node", "was lost": "node", "rank": "rank"}
    return told or next((cause for word, cause in words.items() if word in text), "unknown")


def _unseen(event: Event) -> str:
    return str(event.evidence.get("cause") or "") or "coordinator"


def _sane(time: float | None, otherwise: float, latest: float) -> float:
    """Clocks of nodes differ a little: no fault is known before it happened."""
    return otherwise if time is None or time <= 0 else min(time, latest)


def _first(value: int | None, otherwise: int | None) -> int | None:
    return otherwise if value is None else value
