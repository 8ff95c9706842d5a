"""InfiniBand and RoCE ports that are down, slow or missing (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading

_STATES = frozenset({"active", "down", "init", "armed", "active_defer"})


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare ports with what the site expects, and with the other ports of this node."""
    expected = reading.expected
    booting = reading.uptime_s is not None and reading.uptime_s < limits["settle_s"]
    rising = [port for port in reading.ports if port.state in ("init", "armed") or port.physical == "polling"]
    active = [port for port in reading.ports if port.state == "active"]
    unreadable = [port for port in reading.ports if port.state not in _STATES]
    down = [port for port in reading.ports if port.state in _STATES - {"active"}]
    for port in unreadable:
        yield CHECK.unknown(port.entity, f"the state of port {port.entity} cannot be read")
    if booting and rising:
        return
    if expected.ib_ports is not None and len(active) + len(unreadable) < expected.ib_ports:
        which = f" (not: {', '.join(port.entity for port in down)})" if down else ""
        message = f"{len(active)} of {expected.ib_ports} InfiniBand or RoCE ports are active{which}"
        yield CHECK.critical("ports", message, active=len(active), expected=expected.ib_ports)
    if expected.ib_ports is None and active:
        for port in down:
            if port.physical not in ("disabled", ""):
                yield CHECK.warning(port.entity, f"port {port.entity} is {port.state} ({port.physical})")
    for port in active:
        rate = port.rate_gbps
        if expected.ib_rate_gbps is not None and rate is not None and rate < expected.ib_rate_gbps:
            message = f"port {port.entity} runs at {rate:g} Gb/s of {expected.ib_rate_gbps:g}"
            yield CHECK.critical(port.entity, message, rate_gbps=rate, expected_gbps=expected.ib_rate_gbps)


CHECK = Check(
    name="infiniband_ports",
    what="State, physical state and rate of every port in /sys/class/infiniband.",
    why=(
        "NCCL uses every port; with one missing the whole job runs at the speed of the node that lacks it, or does "
        "not start."
    ),
    remedy="Look at cable and transceiver; restart the port; replace the cable.",
    false_alarms=(
        "Ports that are not cabled on purpose: give the site's number of ports, then only that counts. Shortly after boot "
        "links are trained and configured: ports that still wait for it are not counted as missing."
    ),
    limits={"settle_s": 120},
    run=run,
    mode=Mode.DRAIN,
    action=Action.INSPECT,
    needs=("devices",),
)
