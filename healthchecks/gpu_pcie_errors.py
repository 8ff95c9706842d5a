"""PCI Express links that repeat what they send (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading

_PER_LANE_AND_MINUTE = {1: 0.15, 2: 0.3, 3: 0.48, 4: 0.96, 5: 1.92, 6: 3.84}
"""What a bit error rate of 1e-12 allows."""


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare replays with an earlier reading, per lane and generation, and report fatal errors."""
    for gpu, replays in numbers(reading, "pcie_replays"):
        grown = reading.increase(f"{gpu.uuid}.pcie_replays", replays, limits["window_s"])
        generation, lanes = int(gpu.number("pcie_generation_max") or 4), gpu.number("pcie_width") or 16
        allowed = lanes * _PER_LANE_AND_MINUTE.get(generation, 3.84)
        if grown and grown[0] / grown[1] * 60 > allowed:
            rate = grown[0] / grown[1] * 60
            message = f"GPU {gpu.index} at {gpu.pci_bus}: {rate:.0f} PCIe replays per minute (limit {allowed:.0f})"
            yield CHECK.critical(gpu.entity, message, replays_per_min=round(rate, 1))
    for gpu, errors in numbers(reading, "pcie_fatal_errors"):
        grown = reading.increase(f"{gpu.uuid}.pcie_fatal_errors", errors, limits["window_s"])
        if grown and grown[0] > 0:
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index} at {gpu.pci_bus}: {grown[0]:g} fatal PCIe errors", fatal=grown[0]
            )


CHECK = Check(
    name="gpu_pcie_errors",
    what="How fast the counter of repeated packets grows, and fatal errors of the link.",
    why="A bad contact first makes the link slow, then the GPU falls off the bus in the middle of a job.",
    remedy="Reseat the board or its riser; replace the riser.",
    false_alarms=(
        "A few replays are normal: the limit follows from the bit error rate that the standard allows, per lane and "
        "generation."
    ),
    limits={"window_s": 3600},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("nvml",),
    gpu_fields=("pcie_replays",),
    contexts=("periodic",),
)
