"""Which processes the ranks of a run are, as its events tell (pure)."""

from __future__ import annotations

from collections.abc import Sequence

from hpctrain.jobs.event import Event
from hpctrain.jobs.records import whole


def newest_ranks(events: Sequence[Event]) -> tuple[tuple[str, int, int], ...]:
    """(node, rank, pid) of the newest incarnation's ranks, by rank; whether they still live nobody knows from this."""
    started = [event for event in events if event.kind == "ranks.started" and event.node]
    numbers = [whole(event.evidence.get("incarnation")) or 0 for event in started]
    newest = max(numbers, default=0)
    found: dict[int, tuple[str, int]] = {}
    for event, number in zip(started, numbers, strict=True):
        ranks, pids = event.evidence.get("ranks"), event.evidence.get("pids")
        if number == newest and isinstance(ranks, list) and isinstance(pids, list):
            found.update({int(rank): (event.node, int(pid)) for rank, pid in zip(ranks, pids, strict=False)})
    return tuple((node, rank, pid) for rank, (node, pid) in sorted(found.items()))
