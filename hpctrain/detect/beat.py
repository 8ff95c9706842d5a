"""What detectors look at, and what they find (pure).

The coordinator collects the newest :class:`RankBeat` of every rank from the agents, hands all of them to each
:class:`Detector` about twice a second, and gives what they find to the recovery ladder. A detector never acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Action = Literal["alert", "restart", "swap", "rewind", "stop"]
"""``alert``: an event only; ``restart``: all ranks again on the same nodes; ``swap``: without the named nodes;
``rewind``: from before an older checkpoint; ``stop``: the job ends with a verdict."""


@dataclass(frozen=True, slots=True)
class RankBeat:
    """The newest that is known of one rank.

    Attributes:
        incarnation: of the rank's process.
        time: when the rank wrote its heartbeat, seconds since the epoch on its node; 0 while it has written none.
        seen: when the coordinator heard of it, seconds since the epoch on the coordinator's node.
        phase: of :data:`hpctrain.train.heartbeat.PHASES`; "" for a script that writes no heartbeat.
        step: completed optimizer steps, None while unknown.
        loss: of the newest step, None while unknown; may be NaN or infinite.
        tokens_per_s: of the whole job, None while unknown.
        detail: what the rank does within its phase, in words.
        output_bytes: how much the rank has printed in this incarnation.
        cpu_s: CPU time that the rank and its children have used, seconds.
        pid: of the rank on its node, 0 while it is not known.
    """

    rank: int
    node: str
    incarnation: int
    time: float = 0.0
    seen: float = 0.0
    phase: str = ""
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    detail: str = ""
    output_bytes: int = 0
    cpu_s: float = 0.0
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Detection:
    """Something a detector has found.

    Attributes:
        detector: ``hang``, ``loss``, ``throughput``, ``log_rule``, ``node_health``.
        reason: one sentence for people.
        cause: a value of :class:`hpctrain.watchdog.budget.Cause`, such as ``hang``.
        fault_time: the best known time of the fault itself, seconds since the epoch.
        ranks, nodes: who is to blame, where that is known.
        stacks: the stacks of all ranks are wanted before anything is killed.
        evidence: facts with units in their names, for machines.
    """

    detector: str
    action: Action
    reason: str
    cause: str
    fault_time: float
    ranks: tuple[int, ...] = ()
    nodes: tuple[str, ...] = ()
    step: int | None = None
    stacks: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)


class Detector(Protocol):
    """One kind of trouble. Detectors hold state between looks, but no clock: the time is an argument."""

    def begin(self, incarnation: int, now: float) -> None:
        """New ranks have been started: forget what belonged to the old ones, keep what was learned."""

    def look(self, beats: Sequence[RankBeat], now: float) -> Sequence[Detection]:
        """What is wrong now. The same trouble of one incarnation is told once.

        Args:
            beats: the newest of every rank that has been heard of, of this incarnation only.
            now: seconds since the epoch.
        """

    def line(self, rank: int, node: str, text: str, now: float) -> Sequence[Detection]:
        """A line of a rank's output that an agent passed on because a log rule asked for it."""
