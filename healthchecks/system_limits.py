"""A node that runs out of process ids or open files (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare processes and open files with the system's limits."""
    for what, used, most in (
        ("processes", reading.process_count, reading.process_limit),
        ("open files", reading.files_open, reading.files_limit),
    ):
        if used is not None and most and 100 * used / most >= limits["percent"]:
            yield CHECK.warning("system", f"{used} {what} of {most} possible", used=used, most=most)


CHECK = Check(
    name="system_limits",
    what="Numbers of processes and open files against the kernel's limits.",
    why="When they run out nothing can be started, not even what would clean up.",
    remedy="Find who leaks them; raise kernel.pid_max or fs.file-max.",
    false_alarms="None known.",
    limits={"percent": 80},
    run=run,
    action=Action.CLEAN,
    needs=("processes",),
    contexts=("periodic",),
)
