"""Errors in the GPU's own memories that do not go away (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report the driver's flag, and the lifetime count of uncorrected SRAM errors."""
    for gpu, flag in numbers(reading, "sram_threshold_exceeded"):
        count = gpu.number("sram_aggregate_uncorrected") or 0
        if flag:
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: uncorrected SRAM errors are over the driver's threshold", count=count
            )
        elif count > limits["uncorrected"]:
            yield CHECK.warning(gpu.entity, f"GPU {gpu.index}: {count:g} uncorrected SRAM errors in its life", count=count)


CHECK = Check(
    name="gpu_sram",
    what="Uncorrected errors in caches and registers, and the driver's flag that there were too many.",
    why="SRAM cannot be remapped as HBM can: the errors come again.",
    remedy="Replace the GPU; the flag is accepted as a reason.",
    false_alarms="None known for the flag. The count alone is a warning.",
    limits={"uncorrected": 4},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REPLACE,
    needs=("nvml",),
    gpu_fields=("sram_threshold_exceeded",),
)
