"""File systems that are full, or out of inodes (pure)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpctrain.health.finding import Action, Blame, Check, Finding, Limits, Mode, Severity
from hpctrain.health.reading import FileSystem, Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare free space and free inodes of every writable file system with the limits."""
    for fs in reading.file_systems:
        if fs.expected_read_only or fs.read_only or fs.size_bytes < limits["ignore_below_bytes"]:
            continue
        yield from _judge(fs, "space", fs.size_bytes, fs.available_bytes, limits)
        yield from _judge(fs, "inodes", fs.inodes, fs.inodes_available, limits)


def _judge(fs: FileSystem, what: str, total: int, free: int, limits: Limits) -> Iterator[Finding]:
    if total <= 0 or free > total:
        return  # this file system does not count them
    used_percent = 100 * (1 - free / total)
    evidence: dict[str, Any] = {f"{what}_used_percent": round(used_percent, 2)}
    for severity, limit in ((Severity.CRITICAL, limits["critical_percent"]), (Severity.WARNING, limits["warning_percent"])):
        if used_percent >= limit:
            message = f"{fs.mount}: {used_percent:.1f} % of {what} used (limit {limit:g} %)"
            yield CHECK.found(severity, fs.mount, message, **evidence)
            return


CHECK = Check(
    name="disk_space",
    what="Used space and inodes of every file system that holds data.",
    why="A full local disk fails checkpoint writes, container starts and slurmd's own spool, often only hours into a job.",
    remedy="Remove what finished jobs left in local scratch directories; look for core dumps and container layers.",
    false_alarms=(
        "File systems that are full by design; raise the limit or leave the mount out in the site's configuration."
    ),
    limits={"warning_percent": 90, "critical_percent": 98, "ignore_below_bytes": 64 * 2**20},
    run=run,
    mode=Mode.WARN,
    action=Action.CLEAN,
    blame=Blame.USER,
    needs=("mounts",),
)
