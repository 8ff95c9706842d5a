"""GPUs whose clocks are held down by a setting (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare the application clock with the highest, and the clock of a busy GPU with its neighbours'."""
    for gpu, limit in numbers(reading, "clock_sm_limit_mhz"):
        most = gpu.number("clock_sm_max_mhz")
        if most and limit < most * limits["part_of_max"]:
            yield CHECK.warning(
                gpu.entity, f"GPU {gpu.index}: clocks are set to {limit:g} MHz of {most:g} MHz", limit_mhz=limit
            )
    for gpu, now in numbers(reading, "clock_memory_mhz"):
        most, busy = gpu.number("clock_memory_max_mhz"), gpu.number("utilization_percent") or 0
        if most and busy >= limits["busy_percent"] and now < most * limits["part_of_max"]:
            yield CHECK.warning(
                gpu.entity, f"GPU {gpu.index}: busy, and its memory runs at {now:g} MHz of {most:g} MHz", clock_mhz=now
            )


CHECK = Check(
    name="gpu_clocks",
    what="Application clocks against the highest possible ones, and the memory clock of GPUs that are at work.",
    why="Clocks that were locked for a benchmark and not unlocked make every later job slow.",
    remedy="Reset them with nvidia-smi -rac and -rgc, -rmc.",
    false_alarms="Sites that lock clocks for even timing. Idle GPUs clock down, which is no fault and not reported.",
    limits={"part_of_max": 0.7, "busy_percent": 80},
    run=run,
    action=Action.CONFIGURE,
    needs=("nvml",),
    gpu_fields=("clock_sm_max_mhz",),
)
