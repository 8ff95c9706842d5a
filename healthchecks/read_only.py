"""File systems that should be writable and are not (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report each read-only mount that the kernel log explains, and warn of the others of writable kinds."""
    went = {event.entity for event in reading.events("read_only")}
    for fs in reading.file_systems:
        if fs.read_only and not fs.expected_read_only:
            message = f"{fs.mount}: {fs.kind} file system is mounted read-only"
            yield CHECK.warning(fs.mount, message, kind=fs.kind)
    for device in sorted(went):
        yield CHECK.critical(
            device or "disk", f"the kernel made the file system on {device or 'a disk'} read-only after errors"
        )


CHECK = Check(
    name="read_only",
    what="Mounts of writable kinds that carry the option ro, and the kernel's messages about it.",
    why="The kernel makes a disk read-only after I/O errors; jobs then start, and fail at their first write.",
    remedy="Read the kernel log for I/O errors of that device; repair or replace it, then mount again.",
    false_alarms="Software trees that a site exports read-only on purpose: those are warnings only.",
    limits={},
    run=run,
    action=Action.INSPECT,
    needs=("mounts", "kernel_log"),
)
