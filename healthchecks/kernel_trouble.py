"""A kernel that is hung or damaged (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report lockups, oopses and hung tasks from the kernel log."""
    for event in reading.events("lockup", "panic"):
        yield CHECK.critical(event.entity or "kernel", f"kernel: {event.text}", count=event.count)
    hung = reading.events("hung_task")
    if hung:
        yield CHECK.warning(hung[-1].entity, f"kernel: {hung[-1].text} ({len(hung)} such tasks)", tasks=len(hung))


CHECK = Check(
    name="kernel_trouble",
    what="Soft and hard lockups, RCU stalls, oopses and hung tasks in the kernel log.",
    why="After an oops a kernel goes on with locks that nobody will give back; processes then hang one by one.",
    remedy="Reboot.",
    false_alarms="Hung tasks while a file server is away end by themselves, so they are warnings.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.REBOOT,
    needs=("kernel_log",),
)
