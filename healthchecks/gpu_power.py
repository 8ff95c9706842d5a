"""GPUs with another power limit than they were made for, or an absurd consumption (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare the limit in force with the default, and the average power of a busy GPU with the limits."""
    for gpu, limit in numbers(reading, "power_limit_w"):
        default = gpu.number("power_limit_default_w")
        if default and limit < default * limits["part_of_default"]:
            yield CHECK.warning(
                gpu.entity, f"GPU {gpu.index}: limited to {limit:g} W, its default is {default:g} W", limit_w=limit
            )
    for gpu, watts in numbers(reading, "power_average_w"):
        most = gpu.number("power_limit_w")
        if most and watts > most * limits["over_limit"]:
            yield CHECK.warning(gpu.entity, f"GPU {gpu.index}: draws {watts:.0f} W, its limit is {most:g} W", power_w=watts)


CHECK = Check(
    name="gpu_power",
    what="The power limit in force against the default, and the average power against the limit.",
    why="A limit that somebody has left behind makes the GPU a straggler.",
    remedy="Set the limit back with nvidia-smi -pl; look for a power-capping service.",
    false_alarms="Sites that limit power on purpose: set the check to off.",
    limits={"part_of_default": 0.95, "over_limit": 1.2},
    run=run,
    action=Action.CONFIGURE,
    needs=("nvml",),
    gpu_fields=("power_limit_w",),
)
