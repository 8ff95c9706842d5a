"""Corrected memory errors that come fast, and uncorrected ones that a reset has made invisible (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare corrected errors, and the lifetime count of uncorrected ones, with earlier readings."""
    for gpu, count in numbers(reading, "ecc_aggregate_uncorrected"):
        grown = reading.increase(f"{gpu.uuid}.ecc_aggregate_uncorrected", count, limits["uncorrected_window_s"])
        if grown and grown[0] > limits["uncorrected"]:
            words = f"{grown[0]:g} uncorrected memory errors in {grown[1] / 3600:.1f} hours, {count:g} in its life"
            message = f"GPU {gpu.index}: {words}"
            yield CHECK.warning(gpu.entity, message, count=grown[0], aggregate=count)
    for gpu, count in numbers(reading, "ecc_volatile_corrected"):
        grown = reading.increase(f"{gpu.uuid}.ecc_volatile_corrected", count, limits["window_s"])
        if grown and grown[0] / grown[1] > limits["per_s"]:
            rate = grown[0] / grown[1]
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: {rate:.0f} corrected memory errors per second", rate_per_s=round(rate, 1)
            )


CHECK = Check(
    name="gpu_ecc_rate",
    what="How fast corrected memory errors come, and whether the lifetime count of uncorrected ones has grown.",
    why=(
        "Each correction is an interrupt: at thousands per second the GPU slows down and monitoring tools stall, and "
        "it shows only under load."
    ),
    remedy="Reset the GPU; if the storm comes back under load, replace it.",
    false_alarms="None known at this rate; a handful of corrections per hour is normal.",
    limits={"per_s": 1000, "window_s": 3600, "uncorrected": 0, "uncorrected_window_s": 86_400},
    run=run,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("ecc_volatile_corrected",),
    contexts=("periodic",),
)
