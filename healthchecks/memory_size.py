"""Memory that has gone missing (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare the memory the kernel manages with what the node is configured to have."""
    have, expected = reading.memory_bytes, reading.expected.memory_bytes
    if expected is None:
        return  # nobody has said how much there should be
    if have is None:
        yield CHECK.unknown("memory", "the size of memory could not be read")
        return
    missing_percent = 100 * (1 - have / expected) if expected > 0 else 0
    if missing_percent > limits["missing_percent"]:
        message = f"{have / 2**30:.1f} GiB of memory where {expected / 2**30:.1f} GiB are expected"
        yield CHECK.critical("memory", message, missing_percent=round(missing_percent, 2))


CHECK = Check(
    name="memory_size",
    what="Size of memory against the size the site expects.",
    why="A module that fails at boot is silently left out; jobs sized for the whole node are then killed for memory.",
    remedy="Look for memory errors in the BMC's event log; reseat or replace the module.",
    false_alarms="Firmware and the kernel keep a few percent for themselves; the limit allows for that.",
    limits={"missing_percent": 5},
    run=run,
    mode=Mode.DRAIN,
    action=Action.INSPECT,
    needs=("host",),
)
