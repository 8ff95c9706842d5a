"""A GPU whose own records are corrupt (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report each GPU that finds its InfoROM corrupt."""
    for gpu in reading.gpus:
        if gpu.errors.get("inforom_valid") == "corrupted_inforom":
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index}: the InfoROM is corrupt")


CHECK = Check(
    name="gpu_inforom",
    what="The checksum of the InfoROM, in which a GPU keeps its identity, its ECC counts and its row remappings.",
    why="With a corrupt InfoROM remapped rows are forgotten, and bad memory is used again.",
    remedy="Reset the GPU; if it stays, the board has to be replaced.",
    false_alarms="None known.",
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.RESET,
    needs=("nvml",),
    contexts=("periodic",),
)
