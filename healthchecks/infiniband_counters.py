"""Ports that receive or send damaged packets (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading

_PER_HOUR = {
    "symbol_error": "symbol_per_h",
    "port_rcv_errors": "receive_per_h",
    "link_error_recovery": "recovery_per_h",
    "local_link_integrity_errors": "integrity_per_h",
    "excessive_buffer_overrun_errors": "overrun_per_h",
    "port_xmit_discards": "discards_per_h",
    "local_ack_timeout_err": "timeouts_per_h",
}
"""Counter -> the limit that holds for it."""


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Compare error counters with an earlier reading."""
    for port in reading.ports:
        for name, limit in _PER_HOUR.items():
            now = port.counters.get(name)
            grown = reading.increase(f"{port.entity}.{name}", now, limits["window_s"]) if now is not None else None
            rate = grown[0] / grown[1] * 3600 if grown else 0.0
            if rate > limits[limit]:
                message = f"port {port.entity}: {name} grows by {rate:.0f} per hour (limit {limits[limit]:g})"
                yield CHECK.critical(port.entity, message, counter=name, per_hour=round(rate, 1))


CHECK = Check(
    name="infiniband_counters",
    what="How fast symbol errors, receive errors, buffer overruns, discards and timeouts of each port grow.",
    why="Damaged packets are sent again: the bandwidth drops, on one port of one node, and every step waits for it.",
    remedy="Clean or replace cable and transceiver; discards point to congestion or a wrong flow control set-up instead.",
    false_alarms="Counters jump when a cable is plugged in.",
    limits={
        "symbol_per_h": 120,
        "receive_per_h": 36_000,
        "recovery_per_h": 300,
        "integrity_per_h": 0,
        "overrun_per_h": 0,
        "discards_per_h": 360_000,
        "timeouts_per_h": 3_600,
        "window_s": 7200,
    },
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("devices",),
    contexts=("periodic",),
)
