"""Corrected memory errors that come fast (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare corrected errors with an earlier reading."""
    for gpu, count in numbers(reading, "ecc_volatile_corrected"):
        grown = reading.increase(f"{gpu.uuid}.ecc_volatile_corrected", count, limits["window_s"])
        if grown and grown[0] / grown[1] > limits["per_s"]:
            rate = grown[0] / grown[1]
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: {rate:.0f} corrected memory errors per second", rate_per_s=round(rate, 1)
            )


CHECK = Check(
    name="gpu_ecc_rate",
    what="How fast the counter of corrected memory errors grows.",
    why=(
        "Each correction is an interrupt: at thousands per second the GPU slows down and monitoring tools stall, and "
        "it shows only under load."
    ),
    remedy="Reset the GPU; if the storm comes back under load, replace it.",
    false_alarms="None known at this rate; a handful of corrections per hour is normal.",
    limits={"per_s": 1000, "window_s": 3600},
    run=run,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("ecc_volatile_corrected",),
    contexts=("periodic",),
)
