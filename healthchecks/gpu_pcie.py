"""GPUs on a PCI Express link that is narrower or older than it could be (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare the width with the possible one, and the generation of busy GPUs."""
    for gpu, width in numbers(reading, "pcie_width"):
        most = gpu.number("pcie_width_max")
        if most and width < most:
            message = f"GPU {gpu.index} at {gpu.pci_bus}: PCIe link has {width:g} of {most:g} lanes"
            yield CHECK.critical(gpu.entity, message, width=width, width_max=most)
    for gpu, generation in numbers(reading, "pcie_generation"):
        most, busy = gpu.number("pcie_generation_max"), gpu.number("utilization_percent") or 0
        if most and generation < most and busy >= limits["busy_percent"]:
            message = f"GPU {gpu.index} at {gpu.pci_bus}: busy, its PCIe link has generation {generation:g} of {most:g}"
            yield CHECK.warning(gpu.entity, message, generation=generation, generation_max=most)


CHECK = Check(
    name="gpu_pcie",
    what="Lanes of each GPU's PCI Express link, and the generation while the GPU is at work.",
    why="With half the lanes, loading data and checkpoints takes twice as long, on one rank only.",
    remedy="Reboot, which trains the link again; then reseat the board or its riser.",
    false_alarms=(
        "The generation drops when a GPU is idle, to save power, so it is read only under load. Slots with fewer "
        "lanes than the card: the driver then reports the smaller number as the possible one."
    ),
    limits={"busy_percent": 50},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("nvml",),
    gpu_fields=("pcie_width",),
)
