"""Processes that the kernel killed for memory (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Blame, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report kills by the system's own OOM killer; those inside a job's limits are the job's affair."""
    events = reading.events("oom")
    if events:
        newest = max(events, key=lambda event: event.time)
        age_min = (reading.time - newest.time) / 60
        message = f"the kernel killed {len(events)} processes for memory, the last {age_min:.0f} minutes ago: {newest.text}"
        yield CHECK.warning("memory", message, count=len(events))


CHECK = Check(
    name="out_of_memory",
    what="Lines of the OOM killer for the whole node, not for a job's cgroup.",
    why="It may have killed slurmd, munge or a monitoring agent, after which the node is half dead.",
    remedy="Check that the node's services run; enforce memory limits (ConstrainRAMSpace).",
    false_alarms="Sites without memory limits see it whenever a job is too large: that is the user's problem.",
    limits={},
    run=run,
    action=Action.CLEAN,
    blame=Blame.USER,
    needs=("kernel_log",),
    contexts=("periodic",),
)
