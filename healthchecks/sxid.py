"""Faults of NVSwitches (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading
from hpctrain.health.xid_table import SXID_TITLES


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report fatal errors of a switch; others only when there are many."""
    for event in reading.events("sxid"):
        title = SXID_TITLES.get(event.number, "")
        words = f"NVSwitch {event.entity}: SXid {event.number}" + (f": {title}" if title else "")
        link = f" on link {event.detail['link']}" if "link" in event.detail else ""
        if event.detail.get("fatal") == "1":
            yield CHECK.critical(event.entity, f"{words} (fatal){link}", sxid=event.number, count=event.count)
        elif event.count >= limits["non_fatal"]:
            message = f"{words}{link}, {event.count} times"
            yield CHECK.warning(event.entity, message, action=Action.INSPECT, sxid=event.number, count=event.count)


CHECK = Check(
    name="sxid",
    what="SXid lines of the kernel log since the last boot.",
    why="A switch serves all GPUs of the node: its faults show as NVLink errors (Xid 74) of GPUs that are fine.",
    remedy="Reboot, which resets all GPUs and switches together; if it comes again, have the baseboard looked at.",
    false_alarms="Links that are trained at boot and reset report non-fatal errors; only many of them are reported.",
    limits={"non_fatal": 100},
    run=run,
    mode=Mode.DRAIN,
    action=Action.REBOOT,
    needs=("kernel_log",),
)
