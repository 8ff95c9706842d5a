"""Events of whole failures, as the coordinator and the agents write them, for tests of whatever explains them."""

from __future__ import annotations

from typing import Any

from hpctrain.jobs.event import Event

NODES = ("n1", "n2")


class Story:
    """A job's events, told one after the other; ``now`` is where the story has come to."""

    def __init__(self, start: float = 1000.0) -> None:
        self.now = start
        self.events: list[Event] = []
        self.incarnation = 0

    def tell(self, kind: str, reason: str = "", *, after: float = 0.0, source: str = "coordinator", node: str = "",
             step: int | None = None, **evidence: Any) -> Story:
        """One event, so many seconds after the last."""
        self.now += after
        self.events.append(Event(self.now, source, kind, 7, node, step, reason, evidence))
        return self

    def begin(self, *, queued: float = 5.0) -> Story:
        """Submitted, started, first step done."""
        self.tell("job.submitted", source="submit").tell("job.started", after=queued, incarnation=0, restarts=0)
        return self.ranks(0).tell("step.first", after=2.0, source="trainer", node="n1", step=1, seconds=0.5)

    def ranks(self, incarnation: int) -> Story:
        """Both nodes start their ranks."""
        self.incarnation = incarnation
        for node in NODES:
            self.tell("ranks.started", after=0.1, source="agent", node=node, incarnation=incarnation, ranks=[0, 1])
        return self

    def fault(self, cause: str = "rank", *, after: float = 10.0, known_after: float = 0.05, step: int = 20,
              reason: str = "rank 2 on n2 died of SIGKILL", **evidence: Any) -> Story:
        """Something fails, and the coordinator knows a little later."""
        self.now += after
        values = {"cause": cause, "fault_time": self.now, "incarnation": self.incarnation, "detected_by": "pidfd",
                  "nodes": ["n2"], "ranks": [2], **evidence}
        return self.tell("fault.detected", reason, after=known_after, step=step, **values)

    def recovery(self, rung: str, reason: str = "", **evidence: Any) -> Story:
        """The ladder has decided."""
        return self.tell("recovery.started", after=0.02, rung=rung, incarnation=self.incarnation + 1,
                         reason=reason or f"{rung} can hold this", spares_left=0, **evidence)

    def recovered(self, rung: str, *, fault_time: float, cause: str = "rank", redone: int = 1, tier: str = "ram",
                  step: int = 21, **phases: float) -> Story:
        """The first new step is done; phases in seconds, such as ``kill_s=0.1``."""
        self.incarnation += 1
        total = phases.pop("total_s", sum(phases.values()))
        self.now = max(self.now, fault_time + total)
        return self.tell("recovery.finished", step=step, rung=rung, incarnation=self.incarnation, cause=cause,
                         fault_time=fault_time, total_s=total, redone_steps=redone, restored_step=step - redone, tier=tier,
                         **phases)


def respawned(cause: str = "rank") -> Story:
    """One killed rank, back after 0.9 s."""
    story = Story().begin().fault(cause)
    fault = story.events[-1].evidence["fault_time"]
    story.recovery("R1")
    return story.recovered("R1", fault_time=fault, cause=cause, detect_s=0.05, kill_s=0.1, regroup_s=0.2, state_s=0.1,
                           data_s=0.15, first_step_s=0.3)
