"""Kernel modules that GPU jobs need (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report modules that the site expects, and nvidia_uvm beside a loaded driver, that are not loaded."""
    if reading.modules is None:
        return
    wanted = dict.fromkeys(reading.expected.modules, True)
    for module in wanted:
        if module.replace("-", "_") not in reading.modules:
            yield CHECK.critical(module, f"the kernel module {module} is not loaded", module=module)


CHECK = Check(
    name="gpu_modules",
    what="The kernel modules that the site names: nvidia_uvm, nvidia_peermem, gdrdrv...",
    why=(
        "Without nvidia_uvm no CUDA program starts; without nvidia_peermem NCCL goes through the CPU at a fraction of "
        "the speed."
    ),
    remedy="Load it with modprobe; find out why it was not loaded at boot.",
    false_alarms="Kernels with dma-buf support need no nvidia_peermem; do not list it there.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.CONFIGURE,
    needs=("host",),
)
