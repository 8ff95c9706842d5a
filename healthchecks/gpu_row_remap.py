"""Memory rows that are to be remapped, or could not be (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report failed and pending remappings, and GPUs that run out of spare rows."""
    for gpu in reading.gpus:
        if gpu.number("remap_failed"):
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: a memory row could not be remapped", action=Action.REPLACE, rule="failed"
            )
        elif gpu.number("remap_pending"):
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: a memory row waits for a reset to be remapped", rule="pending"
            )
        rows, banks = gpu.number("remapped_uncorrected") or 0, gpu.number("remap_banks_without_spares") or 0
        if rows >= limits["rows"]:
            message = f"GPU {gpu.index}: {rows:g} rows remapped after uncorrected errors"
            yield CHECK.critical(gpu.entity, message, action=Action.REPLACE, rule="rows", rows=rows)
        if banks:
            message = f"GPU {gpu.index}: {banks:g} memory banks have no spare row left"
            yield CHECK.warning(gpu.entity, message, action=Action.REPLACE, rule="spares", banks=banks)


CHECK = Check(
    name="gpu_row_remap",
    what="Row remapping of Ampere and later: pending, failed, how many, and how many spare rows are left.",
    why=(
        "A row that waits for its remapping is left out until the reset; a failed remapping means that bad memory "
        "stays in use."
    ),
    remedy="Pending: reset the GPU when its job has ended. Failed, or 512 rows: replace it.",
    false_alarms="Jobs may go on with a pending remapping, so the node is drained and running jobs are left alone.",
    limits={"rows": 512},
    run=run,
    mode=Mode.DRAIN,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("remap_pending", "remap_failed"),
)
