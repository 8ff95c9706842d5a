"""File servers that do not answer (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report what the NFS client complains about."""
    for event in reading.events("nfs"):
        yield CHECK.warning(
            event.entity, f"NFS server {event.entity} did not answer ({event.count} times)", count=event.count
        )


CHECK = Check(
    name="nfs_server",
    what="Lines of the NFS client about servers that do not respond.",
    why="Every process that touches such a file system stops until the server is back.",
    remedy="Look at the server and at the network to it.",
    false_alarms="A server that was restarted: it ends by itself.",
    limits={},
    run=run,
    action=Action.INSPECT,
    needs=("kernel_log",),
    contexts=("periodic",),
)
