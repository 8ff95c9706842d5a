"""Errors that the memory controllers count (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report uncorrected errors, and corrected ones that come fast."""
    if reading.edac_uncorrected:
        message = f"{reading.edac_uncorrected} uncorrected memory errors since boot"
        yield CHECK.critical("memory", message, uncorrected=reading.edac_uncorrected)
    if reading.edac_corrected is not None:
        grown = reading.increase("edac_corrected", reading.edac_corrected, limits["window_s"])
        per_day = grown[0] / max(grown[1], 3600) * 86_400 if grown else 0
        if per_day > limits["corrected_per_day"]:
            yield CHECK.warning("memory", f"corrected memory errors come at {per_day:.0f} a day", per_day=round(per_day))


CHECK = Check(
    name="memory_errors",
    what="The kernel's EDAC counters of corrected and uncorrected errors.",
    why="An uncorrected error kills a process or the node; a module with many corrected ones is about to have one.",
    remedy="Replace the module that the BMC or edac-util names.",
    false_alarms="Uncorrected counts stay until the next boot, also when the module was dealt with.",
    limits={"corrected_per_day": 100, "window_s": 86_400},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("devices", "host"),
)
