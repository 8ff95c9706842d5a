"""Repairs of the GPU's memory that wait, or are impossible (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report pending channel and TPC repairs, and memory that cannot be repaired."""
    for gpu in reading.gpus:
        if gpu.number("memory_unrepairable"):
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index}: its memory cannot be repaired", action=Action.REPLACE)
        for field, words in (("channel_repair_pending", "memory channel"), ("tpc_repair_pending", "TPC")):
            if gpu.number(field):
                yield CHECK.critical(gpu.entity, f"GPU {gpu.index}: the repair of a {words} waits for a reset", field=field)


CHECK = Check(
    name="gpu_memory_repair",
    what="Repairs that new drivers (R580 and later) can make at a reset, and the flag that none is possible.",
    why="The part in question is switched off or in use with errors until the reset.",
    remedy="Reset the GPU; replace it where the memory cannot be repaired.",
    false_alarms="None known; older drivers and GPUs do not have it.",
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("channel_repair_pending", "memory_unrepairable"),
)
