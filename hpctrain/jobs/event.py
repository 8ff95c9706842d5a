"""The one record by which a job explains itself (pure).

Every interface reads these lines: ``events``, ``why``, ``report``, metrics. One writer per file, merged when read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        time: seconds since the epoch, UTC.
        source: who says so: ``submit``, ``coordinator``, ``agent``, ``writer``, ``trainer``, ``watchdog``,
            ``cli``.
        kind: what, in ``noun.verb`` form: ``job.submitted``, ``ranks.started``, ``step.first``, ``checkpoint.saved`` ...
            The known kinds are listed in :data:`KINDS`.
        job: Slurm job id, None outside a job.
        node: where, "" where it does not matter.
        step: completed optimizer steps at that moment, None where it does not matter.
        reason: one sentence for people.
        evidence: facts with units in their names, for machines.
    """

    time: float
    source: str
    kind: str
    job: int | None = None
    node: str = ""
    step: int | None = None
    reason: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object that is one line of an event file."""
        return {
            "time": round(self.time, 6), "source": self.source, "kind": self.kind, "job": self.job,
            "node": self.node, "step": self.step, "reason": self.reason, "evidence": dict(self.evidence),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Event | None:
        """Read a line back; None if it is not an event. Unknown keys are ignored, unknown kinds kept."""
        try:
            return cls(
                time=float(record["time"]), source=str(record["source"]), kind=str(record["kind"]),
                job=record.get("job"), node=str(record.get("node") or ""), step=record.get("step"),
                reason=str(record.get("reason") or ""), evidence=dict(record.get("evidence") or {}),
            )
        except (KeyError, TypeError, ValueError):
            return None


RUN_ENDS = ("job.finished", "job.failed", "job.cancelled")
"""Kinds after which a run does not go on by itself."""

KINDS: Mapping[str, str] = {
    "job.submitted": "Slurm accepted the job",
    "job.started": "the batch script runs (again)",
    "job.finished": "the work is complete",
    "job.failed": "the job stops, with a verdict",
    "job.requeued": "the job asked Slurm to start it again",
    "job.cancelled": "a person ended the job",
    "job.stop_requested": "the ranks were asked to save and stop",
    "ranks.started": "an incarnation of the ranks was started on this node",
    "ranks.stopped": "the ranks of this node have ended as asked",
    "rank.failed": "a rank ended with an error",
    "node.lost": "a node of the job stopped answering",
    "trainer.started": "rank 0 reached the training loop",
    "trainer.finished": "rank 0 has done all steps",
    "step.first": "the first step of an incarnation was done",
    "checkpoint.saved": "a checkpoint was committed",
    "checkpoint.restored": "training continues from a checkpoint",
    "checkpoint.skipped": "a checkpoint was passed over, with the reason",
    "checkpoint.failed": "a save failed; training goes on",
    "checkpoint.degraded": "a tier is out of order; training goes on, and it is tried again",
    "checkpoint.recovered": "a tier works again",
    "checkpoint.schedule": "how often a tier with an automatic interval is written, and why",
    "checkpoint.peer": "which node gets copies of this node's checkpoints",
    "checkpoint.flushed": "what only memory held was saved after the ranks had died",
    "fault.detected": "the coordinator knows that something has failed, and what",
    "recovery.started": "the job is being brought back, on which rung of the ladder",
    "recovery.finished": "the first new step after a failure was done, with what each phase took",
    "agent.started": "a node's agent has reached the coordinator",
    "coordinator.replaced": "the coordinator was killed, and another one has taken over",
    "agent.lost_coordinator": "an agent hears nothing from the coordinator any more",
    "node.excluded": "the job is kept from a node for a time",
    "hang.stacks": "the stacks of all ranks were written down before the ranks were killed",
    "loss.bad": "the loss is no number, or far from what it was",
    "log.rule": "a line of a rank's output matched a rule of the recipe",
    "detection.alert": "a detector found something that needs no action",
    "drill.caused": "a drill has broken something of this run on purpose",
    "data.skipped": "samples were left out, because the loss went wrong when they were seen",
    "data.prepared": "the data set was tokenised or found in the cache",
    "teacher.answered": "the teacher's answers to all questions are there",
    "model.saved": "the final weights were written",
    "evaluation.finished": "what the recipe's evaluate: asks for was measured",
    "evaluation.failed": "a suite could not be measured; the model is saved all the same",
}


SHARED = "shared"


def saved_tier(event: Event) -> str:
    """The tier that an event has made a checkpoint in; "" for any other event."""
    if event.kind != "checkpoint.saved":
        return ""
    return str(event.evidence.get("tier") or SHARED)


def merge(streams: Iterable[Iterable[Event]]) -> list[Event]:
    """All events of several files in order of time; equal times keep the order of the files.

    Two processes tell of a save: the writer that committed it, and rank 0 when it hears of that, if it still lives. The
    first counts.
    """
    found: list[Event] = []
    saved: set[tuple[str, str]] = set()
    for event in sorted((event for stream in streams for event in stream), key=lambda event: event.time):
        name = str(event.evidence.get("checkpoint") or "") if event.kind == "checkpoint.saved" else ""
        key = (name, saved_tier(event))
        if not name or key not in saved:
            found.append(event)
            saved.add(key)
    return found
