"""A node whose memory is taken before a job begins (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """In a prolog, compare the memory that is available with all of it."""
    have, total = reading.memory_available_bytes, reading.memory_bytes
    if reading.context != "prolog" or have is None or not total:
        return
    percent = 100 * have / total
    if percent < limits["available_percent"]:
        message = f"only {have / 2**30:.1f} of {total / 2**30:.1f} GiB of memory are available before the job begins"
        yield CHECK.warning("memory", message, available_percent=round(percent, 1))


CHECK = Check(
    name="memory_available",
    what="Memory that is available when a job is about to begin.",
    why="Leftovers in /dev/shm or of a process that escaped count against nobody, until the next job is killed for memory.",
    remedy="Look for large files in /dev/shm and for processes of no job.",
    false_alarms="Nodes that several jobs share; file systems that keep large caches pinned.",
    limits={"available_percent": 50},
    run=run,
    action=Action.CLEAN,
    needs=("host",),
    contexts=("prolog",),
)
