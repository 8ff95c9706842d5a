"""A node that runs another kernel or driver than the fleet (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Compare each version the site names with the one that runs here."""
    for name, expected in reading.expected.versions.items():
        have = reading.versions.get(name, "")
        if have and have != expected:
            yield CHECK.critical(name, f"{name} is {have}, the fleet has {expected}", have=have, expected=expected)
        elif not have:
            yield CHECK.unknown(name, f"the version of {name} could not be read", expected=expected)


CHECK = Check(
    name="version_drift",
    what="Versions of kernel, driver, CUDA and NVML against those the site expects.",
    why="Nodes that missed an update give NCCL errors and numerical differences that are very hard to trace to one node.",
    remedy="Update the node, or the site's list.",
    false_alarms="A roll-out that is under way.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.CONFIGURE,
    needs=("nvml", "host"),
    contexts=("periodic",),
)
