"""Devices on the PCI bus that report errors or a poor link (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report uncorrected AER errors and network adapters or switches on narrow links."""
    for event in reading.events("pcie"):
        yield CHECK.critical(event.entity or "pcie", f"uncorrected PCIe error: {event.text}", count=event.count)
    for device in reading.pci:
        if device.kind in ("network", "nvswitch") and 0 < device.width < device.width_max:
            message = f"{device.kind} {device.address}: PCIe link has {device.width} of {device.width_max} lanes"
            yield CHECK.warning(device.address, message, width=device.width, width_max=device.width_max)


CHECK = Check(
    name="pcie_errors",
    what="Uncorrected errors of Advanced Error Reporting, and link widths of network adapters and NVSwitches.",
    why="An adapter on half its lanes halves the bandwidth of all ranks on its node.",
    remedy="Reboot; reseat the board or its riser.",
    false_alarms="Adapters in slots with fewer lanes than they could use: leave this check in observe there.",
    limits={},
    run=run,
    action=Action.INSPECT,
    needs=("devices", "kernel_log"),
)
