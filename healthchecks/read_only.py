"""File systems that should be writable and are not (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Check, Finding, Limits, Severity
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report each read-only mount of a kind that is normally writable."""
    for fs in reading.file_systems:
        if fs.read_only and not fs.expected_read_only:
            message = f"{fs.mount}: {fs.kind} file system is mounted read-only"
            yield Finding(CHECK.name, Severity.WARNING, fs.mount, message, {"kind": fs.kind})


CHECK = Check(
    name="read_only",
    what="Mounts of writable kinds that carry the option ro.",
    why="The kernel remounts a disk read-only after I/O errors; jobs then start, and fail at their first write.",
    remedy="Read the kernel log for I/O errors of that device; repair or replace it, then remount.",
    false_alarms="Software trees that a site exports read-only on purpose.",
    limits={},
    run=run,
)
