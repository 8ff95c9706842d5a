"""Zombie processes in masses (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report more zombies than a healthy system has."""
    count = sum(process.state == "Z" for process in reading.processes)
    if count >= limits["zombies"]:
        yield CHECK.warning("processes", f"{count} zombie processes", zombies=count)


CHECK = Check(
    name="zombies",
    what="The number of zombie processes.",
    why="Each keeps a process id, and a zombie with a thread stuck in the GPU driver keeps GPU memory.",
    remedy="Find their parent, and end it; reboot if that is process 1.",
    false_alarms="A container whose first process does not reap.",
    limits={"zombies": 1000},
    run=run,
    action=Action.REBOOT,
    needs=("processes",),
    contexts=("periodic",),
)
