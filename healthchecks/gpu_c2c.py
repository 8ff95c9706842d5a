"""The link between a Grace CPU and its GPU (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report new errors of the chip-to-chip link."""
    for gpu, errors in numbers(reading, "c2c_errors"):
        grown = reading.increase(f"{gpu.uuid}.c2c_errors", errors, limits["window_s"])
        if grown and grown[0] > limits["errors"]:
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index}: {grown[0]:g} errors on the link to its CPU", errors=grown[0])


CHECK = Check(
    name="gpu_c2c",
    what="Error interrupts of the NVLink-C2C link of Grace Hopper and Grace Blackwell.",
    why="The CPU's memory is reached over it: errors there stall or crash everything.",
    remedy="Reboot; if it comes again, replace the module.",
    false_alarms="Not supported anywhere else, and then skipped. New and not yet seen in the field, so it only observes.",
    limits={"errors": 0, "window_s": 3600},
    run=run,
    action=Action.REBOOT,
    needs=("nvml",),
    gpu_fields=("c2c_errors",),
    contexts=("periodic",),
)
