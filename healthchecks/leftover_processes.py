"""Processes that survive their job (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report what the epilog could not end."""
    for process in reading.leftovers:
        where = f" in {process.waits_in}" if process.waits_in and process.waits_in != "0" else ""
        message = (
            f"process {process.pid} ({process.name}, state {process.state}{where}) of the finished job survives SIGKILL"
        )
        yield CHECK.critical(f"pid{process.pid}", message, state=process.state, waits_in=process.waits_in)


CHECK = Check(
    name="leftover_processes",
    what="Processes of a finished job that the epilog has sent SIGTERM and SIGKILL.",
    why="They keep GPU memory, ports and files of the next job; a process that survives SIGKILL is stuck in the kernel.",
    remedy="Reboot; the function that it waits in names the culprit.",
    false_alarms="A process that needs longer than a second to give back hundreds of gigabytes of memory.",
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("processes",),
    contexts=("epilog",),
)
