"""Services that must run (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report each service that the site expects and that does not run."""
    for service in reading.services:
        if service.running is False:
            yield CHECK.critical(service.name, f"{service.name} does not run", service=service.name)
        elif service.running is None:
            yield CHECK.unknown(service.name, f"whether {service.name} runs could not be found out")


CHECK = Check(
    name="services",
    what="The services that the site names: munged, slurmd, nv-fabricmanager, nvidia-persistenced...",
    why="Without munge no step starts; without the fabric manager no CUDA program does.",
    remedy="Restart the service; read its log.",
    false_alarms="Services under another process name: name the systemd unit instead.",
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.CONFIGURE,
    needs=("processes",),
)
