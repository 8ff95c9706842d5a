"""A slow clock source (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report a clock source that needs a system call."""
    source = reading.clock.source
    if source in ("hpet", "acpi_pm", "jiffies", "refined-jiffies"):
        yield CHECK.warning("clock", f"the kernel's clock source is {source}, not tsc", source=source)


CHECK = Check(
    name="clock_source",
    what="The kernel's clock source.",
    why="Programs ask for the time constantly; with hpet or acpi_pm each question is a slow system call.",
    remedy=(
        "Find out in the kernel log why tsc was found unstable, often after a firmware bug; boot with tsc=reliable if "
        "the hardware allows."
    ),
    false_alarms="Virtual machines have sources of their own, which are fine and not reported.",
    limits={},
    run=run,
    action=Action.CONFIGURE,
    needs=("host",),
    contexts=("periodic",),
)
