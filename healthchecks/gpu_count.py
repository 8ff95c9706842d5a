"""GPUs that NVML does not count (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Compare what NVML counts with what the site says and with what sits on the PCI bus."""
    on_bus = sum(device.kind == "gpu" for device in reading.pci)
    expected = reading.expected.gpus
    if reading.gpus_seen is None or not (expected or on_bus):
        return
    if expected is not None and reading.gpus_seen < expected:
        message = f"{reading.gpus_seen} of {expected} GPUs answer" + (f", {on_bus} are on the PCI bus" if on_bus else "")
        yield CHECK.critical("gpus", message, seen=reading.gpus_seen, expected=expected, on_bus=on_bus)
    elif reading.gpus_seen < on_bus:
        message = f"{on_bus} GPUs are on the PCI bus, and the driver shows {reading.gpus_seen}"
        yield CHECK.critical("gpus", message, seen=reading.gpus_seen, on_bus=on_bus)
    elif expected is not None and reading.gpus_seen > expected:
        yield CHECK.warning(
            "gpus", f"{reading.gpus_seen} GPUs answer where {expected} are expected", action=Action.CONFIGURE
        )


CHECK = Check(
    name="gpu_count",
    what="Number of GPUs that the driver shows, against the site's number and the PCI bus.",
    why="A job that was given a GPU which is not there fails at once, on every node that lacks one, over and over.",
    remedy="Reboot; if the GPU is still missing, power-cycle, reseat, replace. Look for Xid 79 in the kernel log.",
    false_alarms=(
        "A GPU that is passed through to a virtual machine, or bound to vfio-pci, is on the bus but not in the driver."
    ),
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("nvml", "devices"),
)
