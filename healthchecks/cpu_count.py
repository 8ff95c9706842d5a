"""CPUs that are offline or missing (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode, Severity
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Compare the CPUs that are online with what the site expects, or with those that are present."""
    have, expected = reading.cpus, reading.expected.cpus or reading.cpus_present
    if have is not None and expected and have < expected:
        severity = Severity.CRITICAL if reading.expected.cpus else Severity.WARNING
        yield CHECK.found(
            severity, "cpu", f"{have} CPUs are online where {expected} are expected", cpus=have, expected=expected
        )
    sockets, wanted = reading.sockets, reading.expected.sockets
    if sockets is not None and wanted and sockets < wanted:
        yield CHECK.critical("cpu", f"{sockets} CPU sockets where {wanted} are expected", sockets=sockets, expected=wanted)


CHECK = Check(
    name="cpu_count",
    what="CPUs that are online, and sockets.",
    why="Data loading slows down, and Slurm may refuse to register the node.",
    remedy="Look in the kernel log for CPUs that were taken offline after errors; reboot.",
    false_alarms="Hyper-threads that were switched off after the site's number was written down.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.REBOOT,
    needs=("host",),
)
