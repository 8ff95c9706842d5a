"""What the writer is asked to do, and what it answers (pure)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.retention import Retention

STORES = ("shared", "object")
"""Tiers of whole checkpoints."""
PEER = "peer"
TIERS = (*STORES, "local", PEER)
"""All that the writer writes."""

Notify = Callable[[str, str, int, Mapping[str, Any]], None]
"""Told of an event's kind, reason, step and evidence."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What makes one checkpoint of all shares: rank 0's order on a store has it.

    Attributes:
        world: layout of the ranks, for the commit record.
        time: of the checkpoint, seconds since the epoch.
        reason: why it was saved.
        patience_s: longest wait for the other ranks' shares.
    """

    world_size: int
    world: Mapping[str, Any]
    time: float
    reason: str
    retention: Retention | None
    patience_s: float


@dataclass(frozen=True, slots=True)
class Order:
    """One rank's part of one checkpoint, to be written to one tier.

    Attributes:
        store: of the keeper that holds the part: ``own``, or ``peer`` for a copy of another node's rank.
        root: path or URL of the tier.
        attempt: the same on all ranks; shares of other attempts are not mixed with these.
        commit: only for rank 0 on a store.
        retention: of a local tier.
        details: the whole task as it was posted.
    """

    tier: str
    rank: int
    name: CheckpointName
    store: str
    root: str
    attempt: int
    commit: Ending | None
    retention: Retention | None
    details: Mapping[str, Any]

    @classmethod
    def read(cls, tier: str, answer: Mapping[str, Any]) -> Order:
        """From the keeper's answer.

        Raises:
            ValueError: it is no order; the message says why.
        """
        task = answer["task"]
        try:
            order = cls(
                tier, int(answer["rank"]), CheckpointName(*answer["name"]), str(answer.get("store", "own")),
                str(task.get("root") or ""), int(task.get("attempt", 0)), _ending(task.get("commit")),
                _retention(task.get("retention")), task,
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no order for the writer: {type(error).__name__}: {error}") from None
        if tier != PEER and "://" not in order.root and not order.root.startswith("/"):
            # The writer has a working directory of its own: it would write, and commit, where nobody looks.
            raise ValueError(f"the root of an order must be an absolute path or a URL, not {order.root!r}")
        return order


def _ending(value: Any) -> Ending | None:
    if value is None:
        return None
    return Ending(
        int(value["world_size"]), dict(value["world"]), float(value["time"]), str(value["reason"]),
        _retention(value.get("retention")), float(value.get("patience_s", 600.0)),
    )


def _retention(value: Any) -> Retention | None:
    return None if value is None else Retention.from_json(value)


def done(*, seconds: float, size_bytes: int, committed: bool = False) -> dict[str, Any]:
    """The result of an order that was carried out.

    Args:
        committed: the whole checkpoint exists now (on a local tier: this part).
    """
    return {"seconds": round(seconds, 4), "size_bytes": size_bytes, "committed": committed}


def failed(error: str, *, seconds: float = 0.0, overtaken: bool = False) -> dict[str, Any]:
    """The result of an order that was not carried out.

    Args:
        overtaken: because a newer incarnation is at work: there is no use in another try.
    """
    result = {**done(seconds=seconds, size_bytes=0), "error": error}
    return {**result, "overtaken": True} if overtaken else result
