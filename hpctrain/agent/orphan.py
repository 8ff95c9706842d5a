"""What an agent makes of a coordinator that it hears nothing of (pure, standard library only)."""

from __future__ import annotations

from enum import Enum

ORPHAN_S = 20.0
"""After so long without a word, and without a successor, the coordinator is taken for dead, or for out of reach."""


ORPHANS = "orphans"
"""State in ``coordinator.json`` that agents write who save and requeue by themselves: somebody is at work."""


class Fate(str, Enum):
    """What to do."""

    WAIT = "wait"
    LEAVE = "leave"
    """There is a coordinator, but not for us: the ranks here belong to the past."""
    ALONE = "alone"
    """There is none: save what can be saved, and have the job queued again."""


def fate(
    silent_s: float, unchanged_s: float, *, restarts: int, seen_restarts: int | None, seen_state: str,
) -> tuple[Fate, str]:
    """Decide; with the reason.

    Args:
        silent_s: since the coordinator was heard.
        unchanged_s: since ``coordinator.json`` was seen to change.
        restarts: of the start of the job that this agent belongs to.
        seen_restarts, seen_state: what the file says; None and "" where there is none.
    """
    if seen_restarts is not None and seen_restarts > restarts:
        return Fate.LEAVE, "the job has been started again without this agent"
    if seen_state == "over" and seen_restarts == restarts and silent_s > 5.0:
        return Fate.LEAVE, "the coordinator has ended this start of the job"
    if silent_s < ORPHAN_S:
        return Fate.WAIT, ""
    if seen_state != ORPHANS and seen_restarts is not None and unchanged_s < ORPHAN_S:
        return Fate.LEAVE, f"the coordinator lives, but cannot be reached for {silent_s:.0f} s"
    return Fate.ALONE, f"nothing was heard of the coordinator for {silent_s:.0f} s"
