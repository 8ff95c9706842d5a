"""An incident while its events are being read (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.jobs.event import Event
from hpctrain.jobs.incident import OPEN, PHASES, Incident
from hpctrain.jobs.records import Restart, whole


@dataclass(slots=True)
class Draft:
    """An incident that is being read."""

    fault_time: float
    cause: str = ""
    reason: str = ""
    action: str = ""
    detected_by: str = ""
    rung: str = ""
    tried: list[str] = field(default_factory=list)
    known_time: float | None = None
    mended_time: float | None = None
    ended_time: float | None = None
    phases: dict[str, float] = field(default_factory=dict)
    redone: int | None = None
    step: int | None = None
    restored_step: int | None = None
    tier: str = ""
    nodes: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    incarnation: int | None = None
    outcome: str = OPEN
    measured: bool = False
    fingerprint: str = ""
    traceback: str = ""
    rule: str = ""
    exit_code: int | None = None
    acted: bool = False
    guessed: bool = False
    """The fault time is that of the last trace before."""
    requeued: float | None = None
    started: float | None = None
    ranks_started: float | None = None
    restored: float | None = None

    def blame(self, event: Event) -> None:
        """Add the ranks and nodes that an event names."""
        names = [str(name) for name in as_list(event.evidence.get("nodes"))] or ([event.node] if event.node else [])
        self.nodes += [name for name in names if name not in self.nodes]
        ranks = as_list(event.evidence.get("ranks")) or as_list(event.evidence.get("rank"))
        self.ranks += [rank for value in ranks if (rank := whole(value)) is not None and rank not in self.ranks]

    def learn(self, cause: str, reason: str, blamed: Sequence[str] = ()) -> None:
        """The cause as it is judged later, when more is known than at the first sign, and the nodes to blame for it."""
        if cause and cause not in ("unknown", self.cause):
            self.cause, self.reason = cause, reason or self.reason
            if blamed:
                # Ranks of other nodes were only the first to miss those of these.
                self.nodes, self.ranks = list(blamed), []

    def climb(self, rung: str) -> None:
        """A rung was tried."""
        if rung and (not self.tried or self.tried[-1] != rung):
            self.tried.append(rung)
        self.rung = rung or self.rung

    def close(self, outcome: str, time: float) -> None:
        """It is over."""
        self.outcome, self.ended_time = outcome, time

    def made(self, number: int) -> Incident:
        """The finished value."""
        return Incident(
            number=number, cause=self.cause or "unknown", rung=self.rung, fault_time=self.fault_time,
            tried=tuple(self.tried), known_time=self.known_time, mended_time=self.mended_time,
            ended_time=self.ended_time,
            phases={name: self.phases[name] for name in PHASES if name in self.phases}, redone_steps=self.redone,
            step=self.step, restored_step=self.restored_step, tier=self.tier, nodes=tuple(self.nodes),
            ranks=tuple(self.ranks), incarnation=self.incarnation, reason=self.reason, action=self.action,
            detected_by=self.detected_by, outcome=self.outcome, measured=self.measured, fingerprint=self.fingerprint,
            traceback=self.traceback, rule=self.rule, exit_code=self.exit_code,
        )


def piece_together(draft: Draft) -> None:
    """Phases out of the times of other events, where the coordinator did not measure them."""
    phases, begun = draft.phases, draft.started
    if begun is not None and draft.ranks_started is not None:
        phases.setdefault("regroup", max(0.0, draft.ranks_started - begun))
    if draft.ranks_started is not None and draft.mended_time is not None:
        known = phases.get("state", 0.0) + phases.get("first_step", 0.0)
        phases.setdefault("data", max(0.0, draft.mended_time - draft.ranks_started - known))


def with_queue(told: dict[str, float], draft: Draft, total: float) -> dict[str, float]:
    """The coordinator's own phases; where they hold Slurm's time, that is taken out of them."""
    queue = draft.phases.get("queue")
    if not told:
        return dict(draft.phases)
    if queue is not None and "queue" not in told:
        excess = sum(told.values()) + queue - total
        for name in ("regroup", "kill", "detect"):
            taken = min(max(0.0, excess), told.get(name, 0.0))
            if taken > 0:
                told[name] -= taken
                excess -= taken
        told["queue"] = queue
    return told


def completed_by_metrics(draft: Draft, restarts: Iterable[Restart]) -> Draft:
    """Complete what events did not say by what the metrics show: the steps done again, and the time of an unseen fault."""
    if draft.mended_time is None:
        return draft
    near = [restart for restart in restarts if draft.fault_time - 60 <= restart.time <= draft.mended_time + 60]
    match = min(near, key=lambda restart: abs(restart.time - (draft.mended_time or 0.0)), default=None)
    if match is None:
        return draft
    if draft.redone is None:
        draft.redone = match.steps_redone
    if draft.guessed:
        draft.fault_time = max(match.last_time, min(draft.fault_time, draft.mended_time))
    if draft.step is None:
        draft.step = match.last_step
    return draft


def as_list(value: Any) -> list[Any]:
    """A value out of JSON as a list: one thing is a list of one, nothing an empty one."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]
