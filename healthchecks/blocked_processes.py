"""Processes that are stuck inside the kernel (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Severity
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report processes in state D that were blocked already when this node was last looked at."""
    before = set(reading.blocked_before)
    for process in reading.processes:
        if process.state == "D" and (process.pid, process.started) in before:
            where = f" in {process.waits_in}" if process.waits_in and process.waits_in != "0" else ""
            driver = process.name.startswith("nvidia") or "nv" in process.waits_in.split("_")[0]
            message = f"process {process.pid} ({process.name}) has been blocked in the kernel{where} since the last look"
            severity = Severity.CRITICAL if driver else Severity.WARNING
            yield CHECK.found(severity, f"pid{process.pid}", message, waits_in=process.waits_in)


CHECK = Check(
    name="blocked_processes",
    what="Processes in uninterruptible sleep in two successive readings.",
    why="They cannot be killed: the job's cleanup fails, and Slurm drains the node later with a reason that says nothing.",
    remedy="Find out what they wait for (the message names the function): a file server, or the GPU driver. Reboot.",
    false_alarms="Heavy I/O puts processes in this state for moments; only the same process in two readings counts.",
    limits={},
    run=run,
    action=Action.REBOOT,
    needs=("processes",),
    contexts=("periodic",),
)
