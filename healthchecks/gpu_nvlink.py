"""NVLinks that are down (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report links that are down where links are in use, and fewer links than the model has."""
    in_use = any(gpu.number("nvlinks_active") for gpu in reading.gpus)
    for gpu, active in numbers(reading, "nvlinks_active"):
        links = max(gpu.number("nvlinks") or 0, limits["links"])
        if active >= links or not (in_use or limits["links"]):
            continue
        which = f" (down: {gpu.text('nvlinks_down')})" if gpu.text("nvlinks_down") else ""
        yield CHECK.critical(
            gpu.entity, f"GPU {gpu.index}: {active:g} of {links:g} NVLinks are up{which}", active=active, links=links
        )


CHECK = Check(
    name="gpu_nvlink",
    what="State of every NVLink.",
    why=(
        "NCCL takes the slowest way for all: with one link down the all-reduce of the whole job slows down, or the "
        "job fails."
    ),
    remedy="Reset the GPUs of the node; then reboot; then have the baseboard or cable looked at.",
    false_alarms=(
        "GPUs without a bridge have links that are all down on every GPU: nothing is said then, unless limits.json "
        "knows that the model always has links."
    ),
    limits={"links": 0},
    run=run,
    mode=Mode.DRAIN,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("nvlinks_active",),
)
