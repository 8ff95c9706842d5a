"""One failure of a run and what became of it, as a value (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpctrain.jobs.text import iso

PHASES: Mapping[str, str] = {
    "detect": "until it was known",
    "kill": "ending the other ranks",
    "queue": "in the queue",
    "regroup": "nodes and ranks agreed on",
    "init": "ranks coming up",
    "state": "restoring the state",
    "data": "data and model ready",
    "first_step": "first step",
}
"""The parts of a recovery in their order; ``queue`` is Slurm's time and only R3 has it."""

RUNGS: Mapping[str, str] = {
    "R1": "ranks started again on the same nodes",
    "R2": "a spare node took the lost one's place",
    "R3": "the job was queued again",
    "R4": "the job was stopped",
}

RECOVERED, STOPPED, CANCELLED, OPEN, OVERTAKEN = "recovered", "stopped", "cancelled", "open", "overtaken"
"""What became of an incident. Overtaken: the next failure came before the first new step."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A failure, from the moment it happened to the first new step.

    Attributes:
        number: counts from 1 within the run.
        cause: a value of :class:`hpctrain.watchdog.budget.Cause`, such as ``rank``, ``node``, ``hang``, ``time_limit``.
        rung: ``R1`` to ``R4``, the last one that was tried; "" while nothing has been decided.
        tried: all rungs in the order they were tried, where one fell through to the next.
        fault_time: the best known time of the fault itself, seconds since the epoch.
        known_time: when the coordinator knew; None where nobody said.
        mended_time: when the first new step was done, None for anything else than recovered.
        ended_time: when it was over, in whatever way; None while it is open.
        phases: seconds of each of :data:`PHASES` that is known.
        redone_steps: steps whose work was lost and done again, None while unknown.
        step: completed steps when it happened.
        restored_step: the step that training continued from.
        tier: where the state came from: ``ram``, ``peer``, ``local``, ``shared``, ``object``, "" if nothing says.
        nodes: who is to blame, where that is known.
        incarnation: of the ranks that came after.
        reason: what failed, one sentence.
        action: what was done about it and why, one sentence.
        detected_by: ``pidfd``, ``agent_heartbeat``, ``hang``, ``log_rule``, ``slurm`` ...
        outcome: see :data:`RECOVERED` and the others.
        measured: the coordinator recorded it itself; otherwise it was pieced together from other events.
        traceback: the last words of a program that failed for good.
        rule: of a stopped job: the limit that was reached, such as ``same_failure``.
        exit_code: of the rank, or of the batch script where the job was stopped.
    """

    number: int
    cause: str
    rung: str
    fault_time: float
    tried: tuple[str, ...] = ()
    known_time: float | None = None
    mended_time: float | None = None
    ended_time: float | None = None
    phases: Mapping[str, float] = field(default_factory=dict)
    redone_steps: int | None = None
    step: int | None = None
    restored_step: int | None = None
    tier: str = ""
    nodes: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    incarnation: int | None = None
    reason: str = ""
    action: str = ""
    detected_by: str = ""
    outcome: str = OPEN
    measured: bool = False
    fingerprint: str = ""
    traceback: str = ""
    rule: str = ""
    exit_code: int | None = None

    @property
    def total_s(self) -> float | None:
        """From the fault to the first new step; None if there was none."""
        return None if self.mended_time is None else max(0.0, self.mended_time - self.fault_time)

    @property
    def queue_s(self) -> float:
        """How much of that was Slurm's time."""
        return self.phases.get("queue", 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; times also as ISO 8601 in UTC."""
        values: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if name == "phases":
                values["phases_s"] = {phase: round(seconds, 4) for phase, seconds in value.items()}
            else:
                values[name] = list(value) if isinstance(value, tuple) else value
            if name.endswith("_time"):
                values[f"{name}_iso"] = iso(value)
        return {**values, "total_s": None if self.total_s is None else round(self.total_s, 4)}


CAUSES: Mapping[str, str] = {
    "rank": "a rank died",
    "node": "a node was lost",
    "agent": "a node agent died",
    "prolog": "Slurm could not prepare a node",
    "hang": "training hung",
    "loss": "the loss went wrong",
    "host_memory": "a node ran out of memory",
    "gpu_memory": "a GPU ran out of memory",
    "time_limit": "the time limit was reached",
    "preemption": "a job with more priority took the nodes",
    "maintenance": "maintenance was due",
    "cancelled": "it was cancelled",
    "held": "the job was held",
    "dependency": "a job it depends on failed",
    "coordinator": "the coordinator was lost",
    "health": "a node failed its health checks",
    "storage": "the storage failed",
    "unknown": "something ended it",
}


def cause_words(cause: str) -> str:
    """A cause as a short sentence without a full stop; an unknown one is quoted as it is."""
    return CAUSES.get(cause, f"cause {cause}")
