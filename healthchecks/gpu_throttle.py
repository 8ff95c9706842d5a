"""GPUs that the hardware slows down (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading

_REASONS = ((0x40, "heat (hardware)"), (0x80, "the power brake"), (0x8, "the hardware"))


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report the hardware's own reasons for low clocks, now and as time lost since an earlier reading."""
    for gpu, reasons in numbers(reading, "clock_reasons"):
        found = [words for bit, words in _REASONS if int(reasons) & bit]
        if found:
            yield CHECK.warning(
                gpu.entity, f"GPU {gpu.index}: slowed down by {', '.join(found)}", clock_reasons=int(reasons)
            )
    for field, words in (("hw_thermal_slowdown_ns", "heat"), ("hw_power_brake_ns", "the power brake")):
        for gpu, now in numbers(reading, field):
            grown = reading.increase(f"{gpu.uuid}.{field}", now, limits["window_s"])
            if grown and grown[0] / 1e9 / grown[1] * 100 > limits["lost_percent"]:
                percent = grown[0] / 1e9 / grown[1] * 100
                message = f"GPU {gpu.index}: slowed down by {words} {percent:.1f} % of the last {grown[1] / 60:.0f} minutes"
                yield CHECK.critical(gpu.entity, message, lost_percent=round(percent, 2))


CHECK = Check(
    name="gpu_throttle",
    what="Hardware slowdown, hardware thermal slowdown and power brake; at this moment, and as a share of the last hour.",
    why="One GPU at half its clock halves the speed of the whole job, and nothing fails.",
    remedy="Look at fans, air flow or coolant, dust, and at power supplies for the brake.",
    false_alarms=(
        "The power brake pulls for moments when a power supply fails over. Software power capping is normal under "
        "load and not reported."
    ),
    limits={"lost_percent": 5, "window_s": 3600},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("nvml",),
    gpu_fields=("clock_reasons",),
)
