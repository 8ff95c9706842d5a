"""Uncorrectable memory errors since the last reset (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report uncorrected errors since the driver was loaded, and masses of corrected ones."""
    for gpu, count in numbers(reading, "ecc_volatile_uncorrected"):
        if count > limits["uncorrected"]:
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: {count:g} uncorrected memory errors since its last reset", count=count
            )
    for gpu, count in numbers(reading, "ecc_volatile_corrected"):
        if count > limits["corrected"]:
            yield CHECK.warning(
                gpu.entity, f"GPU {gpu.index}: {count:g} corrected memory errors since its last reset", count=count
            )


CHECK = Check(
    name="gpu_ecc",
    what="Volatile ECC counters: errors since the driver was loaded or the GPU was reset.",
    why=(
        "An uncorrected error kills the process that met it, or with bad luck changes a weight unseen; until the "
        "reset the row is still in use."
    ),
    remedy="Reset the GPU, so that the bad row is remapped; then look at gpu_row_remap.",
    false_alarms=(
        "Contained errors (Xid 94) hit one process only, and the GPU stays usable: the limit may be raised where jobs "
        "matter more."
    ),
    limits={"uncorrected": 0, "corrected": 20_000_000},
    run=run,
    mode=Mode.DRAIN,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("ecc_volatile_uncorrected",),
)
