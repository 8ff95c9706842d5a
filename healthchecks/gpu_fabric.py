"""GPUs that have not joined the NVLink fabric (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading

_MASK = ((0, "degraded bandwidth"), (2, "route recovery in progress"), (4, "route unhealthy"), (6, "access timeout"))


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Judge registration state and health mask of each GPU's fabric; none where there is no NVSwitch."""
    for gpu, state in numbers(reading, "fabric_state"):
        status, mask = gpu.number("fabric_status") or 0, int(gpu.number("fabric_health_mask") or 0)
        if state in (1, 2):
            if reading.uptime_s is not None and reading.uptime_s < limits["settle_s"]:
                continue
            words = "has not begun" if state == 1 else "does not finish"
            yield CHECK.critical(
                gpu.entity, f"GPU {gpu.index}: registration with the NVLink fabric {words}", state=int(state)
            )
        elif state == 3 and status:
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index}: registration with the NVLink fabric failed with {status:g}")
        bad = [name for shift, name in _MASK if mask >> shift & 3 == 1]
        if mask >> 8 & 15 > 1:
            bad.append("incorrect configuration")
        if bad:
            yield CHECK.critical(gpu.entity, f"GPU {gpu.index}: NVLink fabric: {', '.join(bad)}", health_mask=mask)


CHECK = Check(
    name="gpu_fabric",
    what="Fabric registration and its health mask on systems with NVSwitches.",
    why="CUDA cannot be initialised (error 802) on a GPU that the fabric manager has not registered.",
    remedy="Restart the fabric manager; if that does not help, reboot.",
    false_alarms=(
        "Shortly after boot the registration is still going on: nothing is said in the first minutes. Zero in the "
        "mask means that the driver cannot tell, and is no fault."
    ),
    limits={"settle_s": 300},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("nvml", "host"),
    gpu_fields=("fabric_state",),
)
