"""Machine checks: the CPU's own reports of broken hardware (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report uncorrected machine checks from the kernel log, and many corrected ones."""
    corrected = [event for event in reading.events("mce") if event.detail.get("corrected") == "1"]
    for event in reading.events("mce"):
        if event.detail.get("corrected") != "1":
            yield CHECK.critical(
                f"cpu{event.entity}", f"CPU {event.entity or '?'}: machine check: {event.text}", count=event.count
            )
    total = sum(event.count for event in corrected)
    if total > limits["corrected"]:
        yield CHECK.warning("cpu", f"{total} corrected machine checks", count=total)


CHECK = Check(
    name="machine_checks",
    what="Machine check lines in the kernel log.",
    why="They announce a failing CPU, cache or memory module; the next one may be fatal.",
    remedy="Look at the BMC's event log; replace the part that it names.",
    false_alarms="Corrected ones happen on healthy machines now and then, and only many of them are reported.",
    limits={"corrected": 9},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("kernel_log",),
)
