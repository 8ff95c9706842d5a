"""InfiniBand and RoCE ports that are down, slow or missing (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Compare ports with what the site expects, and with the other ports of this node."""
    ports = [port for port in reading.ports if port.link in {"infiniband", "ethernet"}]
    active = [port for port in ports if port.state == "active"]
    expected = reading.expected.ib_ports
    if expected is not None and len(active) < expected:
        message = f"{len(active)} of {expected} InfiniBand or RoCE ports are active"
        down = [port.entity for port in ports if port.state != "active"]
        yield CHECK.critical(
            "ports", message + (f" (not: {', '.join(down)})" if down else ""), active=len(active), expected=expected
        )
    for port in ports:
        if port.state != "active" and expected is None and active and port.physical not in ("disabled", ""):
            yield CHECK.warning(port.entity, f"port {port.entity} is {port.state or 'in no known state'} ({port.physical})")
    rate = reading.expected.ib_rate_gbps
    for port in active:
        if rate is not None and port.rate_gbps is not None and port.rate_gbps < rate:
            message = f"port {port.entity} runs at {port.rate_gbps:g} Gb/s of {rate:g}"
            yield CHECK.critical(port.entity, message, rate_gbps=port.rate_gbps, expected_gbps=rate)


CHECK = Check(
    name="infiniband_ports",
    what="State, physical state and rate of every port in /sys/class/infiniband.",
    why=(
        "NCCL uses every port; with one missing the whole job runs at the speed of the node that lacks it, or does "
        "not start."
    ),
    remedy="Look at cable and transceiver; restart the port; replace the cable.",
    false_alarms="Ports that are not cabled on purpose: give the site's number of ports, then only that counts.",
    limits={},
    run=run,
    mode=Mode.DRAIN,
    action=Action.INSPECT,
    needs=("devices",),
)
