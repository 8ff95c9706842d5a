"""NVLinks that repeat, recover or lose packets (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, numbers
from hpctrain.health.reading import Reading

_COUNTERS = (
    ("nvlink_replays", "replays_per_h", "replays"),
    ("nvlink_recoveries", "recoveries_per_h", "recoveries"),
    ("nvlink_crc_errors", "crc_per_s", "CRC errors"),
)


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare the error counters with an earlier reading."""
    for field, limit, words in _COUNTERS:
        for gpu, now in numbers(reading, field):
            grown = reading.increase(f"{gpu.uuid}.{field}", now, limits["window_s"])
            if not grown:
                continue
            rate = grown[0] / grown[1] * (1 if limit == "crc_per_s" else 3600)
            if rate > limits[limit]:
                unit = "second" if limit == "crc_per_s" else "hour"
                message = f"GPU {gpu.index}: {rate:.0f} NVLink {words} per {unit}"
                yield CHECK.critical(gpu.entity, message, rate=round(rate, 2), counter=field)


CHECK = Check(
    name="gpu_nvlink_errors",
    what="How fast the counters of NVLink replays, recoveries and CRC errors grow.",
    why="A link that recovers stands still for milliseconds; then it goes down.",
    remedy="Reset the GPU; look at Xid 74 or 149; have the baseboard, the switch tray or the cable looked at.",
    false_alarms="A single recovery after a reset of a neighbour.",
    limits={"replays_per_h": 60, "recoveries_per_h": 5, "crc_per_s": 100, "window_s": 3600},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("nvml",),
    gpu_fields=("nvlink_replays",),
    contexts=("periodic",),
)
