"""Disks that report errors (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report dead NVMe controllers, degraded arrays, and I/O errors from the kernel log."""
    nvme = [disk for disk in reading.disks if disk.kind == "nvme"]
    for disk in nvme:
        if disk.state in ("dead", "deleting", "deleting (no io)"):
            yield CHECK.critical(disk.name, f"{disk.name}: the NVMe controller is {disk.state}", state=disk.state)
    expected = reading.expected.nvme
    if expected is not None and len(nvme) < expected:
        yield CHECK.critical(
            "nvme", f"{len(nvme)} NVMe disks where {expected} are expected", have=len(nvme), expected=expected
        )
    for disk in reading.disks:
        if disk.kind == "md" and disk.missing:
            yield CHECK.warning(
                disk.name, f"{disk.name}: {disk.missing} disks of the array are missing", missing=disk.missing
            )
    for event in reading.events("io_error", "nvme"):
        if event.count >= limits["errors"]:
            yield CHECK.warning(
                event.entity, f"{event.entity}: {event.count} I/O errors in the kernel log", count=event.count
            )


CHECK = Check(
    name="disks",
    what="State of NVMe controllers and md arrays, and I/O errors in the kernel log.",
    why="Local disks hold checkpoints and data caches; a dying one first is slow, then read-only.",
    remedy="Replace the disk.",
    false_alarms="I/O errors of removable or network block devices.",
    limits={"errors": 1},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("devices", "kernel_log"),
)
