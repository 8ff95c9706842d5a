"""GPUs that are too hot (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare core and memory temperature with the GPU's own slowdown temperature and the limits."""
    for gpu, degrees in numbers(reading, "temperature_c"):
        slowdown = gpu.number("temperature_slowdown_c")
        if slowdown is not None and degrees >= slowdown - limits["below_slowdown_c"]:
            message = f"GPU {gpu.index}: {degrees:g} C, and it slows down at {slowdown:g} C"
            yield CHECK.warning(gpu.entity, message, temperature_c=degrees, slowdown_c=slowdown)
    for gpu, degrees in numbers(reading, "memory_temperature_c"):
        if degrees >= limits["memory_c"]:
            yield CHECK.warning(gpu.entity, f"GPU {gpu.index}: its memory has {degrees:g} C", memory_temperature_c=degrees)
    for gpu, margin in numbers(reading, "margin_c"):
        offset = gpu.number("margin_slowdown_c")
        if offset is not None and margin < offset:
            yield CHECK.warning(
                gpu.entity, f"GPU {gpu.index}: {margin:g} C of thermal margin, slowdown at {offset:g}", margin_c=margin
            )


CHECK = Check(
    name="gpu_temperature",
    what="Temperature of core and memory, and the margin to the slowdown.",
    why="Heat slows a GPU down, and the whole job with it; memory errors grow with temperature.",
    remedy="Look at fans, air flow or coolant; clean.",
    false_alarms="The margin is unreliable on some H100 boards, so everything here is at most a warning.",
    limits={"below_slowdown_c": 2, "memory_c": 105},
    run=run,
    action=Action.INSPECT,
    needs=("nvml",),
    gpu_fields=("temperature_c",),
)
