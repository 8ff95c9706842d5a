"""What the writer was asked for, and what has become of it on all ranks (pure)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hpctrain.checkpoint.names import CheckpointName

LATE_S = 60.0
"""An order that takes longer than this, and five times as long as usual, is told of."""


@dataclass(frozen=True, slots=True)
class Report:
    """How one rank's order stands.

    Attributes:
        state: ``waiting`` for a writer, ``working``, ``done``, or ``lost`` with the keeper that knew of it.
        error: why it failed, when it is done or lost.
        seconds: that the writer took.
        overtaken: a newer incarnation is at work: these ranks must end.
    """

    state: Literal["waiting", "working", "done", "lost"]
    error: str = ""
    size_bytes: int = 0
    seconds: float = 0.0
    overtaken: bool = False


@dataclass(slots=True)
class Order:
    """One tier's order to the writers of all ranks.

    Attributes:
        posted_s: when; on the clock that does not go back.
        late: it was told that this takes long.
    """

    tier: str
    name: CheckpointName
    reason: str
    posted_s: float
    late: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """An order that is over.

    Attributes:
        error: of the lowest rank that had one; "" when all went well.
        seconds: that the slowest writer took; bytes are those of all ranks.
        untaken: there is no writer on some node.
    """

    order: Order
    error: str
    size_bytes: int
    seconds: float
    untaken: bool = False


def read_report(answer: Mapping[str, Any], name: CheckpointName) -> Report:
    """A rank's report on its order for ``name``, from the keeper's answer."""
    pair = [name.incarnation, name.step]
    result = answer.get("result")
    if answer.get("working") == pair:
        return Report("working")
    if answer.get("waiting") == pair:
        return Report("waiting")
    if result and list(result.get("name", ())) == pair:
        size_bytes, seconds = int(result.get("size_bytes", 0)), float(result.get("seconds", 0))
        return Report("done", str(result.get("error", "")), size_bytes, seconds, bool(result.get("overtaken", False)))
    return Report("lost", str(answer.get("error", "") or "the keeper that knew of the order is gone"))


def settle(order: Order, reports: Sequence[Report | None], now_s: float, usual_s: float) -> Settled | None:
    """What became of an order when all ranks have told; None while it is under way.

    An order that nobody has taken for long counts as failed: there is no writer.

    Args:
        reports: by rank; None of a rank that does not know the order.
        usual_s: seconds that an order for this tier usually takes.
    """
    errors = [(rank, report.error or "the order is lost") for rank, report in enumerate(reports)
              if report is not None and (report.error or report.state == "lost")]
    if errors:
        return Settled(order, f"rank {errors[0][0]}: {errors[0][1]}", 0, now_s - order.posted_s)
    if any(report is None for report in reports):
        return Settled(order, "a rank did not place the order", 0, now_s - order.posted_s)
    known = [report for report in reports if report is not None]
    if all(report.state == "done" for report in known):
        seconds = max(report.seconds for report in known) or now_s - order.posted_s
        return Settled(order, "", sum(report.size_bytes for report in known), seconds)
    if is_late(order, now_s, usual_s) and any(report.state == "waiting" for report in known):
        rank = [report.state for report in known].index("waiting")
        error = f"rank {rank}: no writer has taken it for {now_s - order.posted_s:.0f} s"
        return Settled(order, error, 0, 0.0, untaken=True)
    return None


def is_late(order: Order, now_s: float, usual_s: float) -> bool:
    """It takes so long that somebody should hear of it."""
    return now_s - order.posted_s > max(LATE_S, 5 * usual_s)
