"""What the driver itself asks for (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, Severity, numbers
from hpctrain.health.reading import Reading

_ACTIONS: dict[int, tuple[Action, str]] = {
    1: (Action.RESET, "reset of the GPU"),
    2: (Action.REBOOT, "reboot of the node"),
    3: (Action.RESET, "drain of peer-to-peer traffic"),
    4: (Action.RESET, "drain, then reset of the GPU"),
    5: (Action.REBOOT, "recovery of the IMEX domain"),
    6: (Action.RESET, "reset of the bus"),
    7: (Action.REBOOT, "reboot of the system"),
}


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Follow the recovery action that the driver shows for each GPU."""
    for gpu, value in numbers(reading, "recovery_action"):
        if value == 0:
            continue
        action, words = _ACTIONS.get(int(value), (Action.INSPECT, ""))
        told = f"the driver asks for: {words}" if words else f"unknown recovery action {value:g}"
        severity = Severity.CRITICAL if words else Severity.WARNING
        yield CHECK.found(severity, gpu.entity, f"GPU {gpu.index}: {told}", action=action, recovery_action=int(value))


CHECK = Check(
    name="gpu_recovery_action",
    what="The recovery action (NVML field 230) that drivers from R565 on show for each GPU.",
    why="It is the driver's own verdict after a fault and more reliable than any table of error numbers.",
    remedy="Do what it says: reset the GPU, or reboot the node.",
    false_alarms=(
        "Drivers before R565 do not have it. An action that we do not know is a warning only, since the list grows."
    ),
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.RESET,
    needs=("nvml",),
    gpu_fields=("recovery_action",),
)
