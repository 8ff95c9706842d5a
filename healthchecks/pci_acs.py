"""PCI access control that diverts traffic between GPUs and adapters (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report bridges with access control on, if there are GPUs below them at all."""
    if not any(device.kind == "gpu" for device in reading.pci):
        yield CHECK.skipped("no GPU in this node")
        return
    bridges = [device.address for device in reading.pci if device.acs]
    if bridges:
        message = f"PCI access control is on in {len(bridges)} bridges, such as {bridges[0]}"
        yield CHECK.warning("pci", message, bridges=bridges[:16])


CHECK = Check(
    name="pci_acs",
    what="Access control services (ACS) of PCI bridges.",
    why=(
        "With ACS on, traffic between a GPU and a network adapter goes through the CPU, and GPUDirect RDMA loses most "
        "of its speed."
    ),
    remedy="Switch it off in the firmware or with setpci at boot, unless virtual machines need it.",
    false_alarms="Nodes that pass devices through to virtual machines need ACS.",
    limits={},
    run=run,
    action=Action.CONFIGURE,
    needs=("devices",),
    contexts=("periodic",),
)
