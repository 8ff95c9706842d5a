"""Retired memory pages of GPUs before Ampere (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report pages that wait for a reboot, and too many of them."""
    for gpu in reading.gpus:
        pages = (gpu.number("retired_single_bit") or 0) + (gpu.number("retired_double_bit") or 0)
        if pages >= limits["pages"]:
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: {pages:g} memory pages are retired", action=Action.REPLACE, pages=pages
            )
        if gpu.number("retired_pending"):
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index}: memory pages wait for a reboot to be retired")


CHECK = Check(
    name="gpu_retired_pages",
    what="Retired pages and pending retirements, on GPUs that retire pages instead of remapping rows.",
    why="A page that waits for its retirement is still used.",
    remedy="Reboot; from about 60 pages on the GPU can be replaced under warranty.",
    false_alarms="None known.",
    limits={"pages": 60},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("nvml",),
    gpu_fields=("retired_pending",),
)
