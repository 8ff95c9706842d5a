"""GPUs that do not answer, or that say that they cannot work (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading

_ACTIONS: dict[str, tuple[Action, str]] = {
    "gpu_is_lost": (Action.REBOOT, "has fallen off the bus"),
    "gpu_not_found": (Action.REBOOT, "is not found by the driver"),
    "reset_required": (Action.RESET, "needs a reset before it can be used"),
    "irq_issue": (Action.REBOOT, "gets no interrupts"),
    "insufficient_power": (Action.INSPECT, "has not enough power: a power cable is not connected properly"),
}
_SKIP = frozenset({"not_supported", "no_permission", "lib_rm_version_mismatch", "driver_not_loaded", "uninitialized"})


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report each GPU whose handle, or any call on it, failed with an error that condemns the GPU."""
    for gpu in reading.gpus:
        error = gpu.errors.get("handle", "")
        if error in _ACTIONS:
            action, words = _ACTIONS[error]
            where = f" at {gpu.pci_bus}" if gpu.pci_bus else ""
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index}{where} {words}", action=action, error=error)
        elif error and error not in _SKIP:
            yield CHECK.unknown(gpu.entity, f"GPU {gpu.index} cannot be opened: {error}", error=error)


CHECK = Check(
    name="gpu_lost",
    what="The error that NVML returns for a GPU as a whole: lost, reset required, no power, no interrupts.",
    why="Every process that touches such a GPU fails, and collectives of the whole job hang with it.",
    remedy=(
        "Reset the GPU where NVML says so, else reboot; if it comes back, have power cables and slot looked at, then "
        "replace it."
    ),
    false_alarms="A GPU that is being reset by a person at this very moment.",
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("nvml",),
)
