"""Ports that go down and up again (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Count how often a link went down since an earlier reading."""
    for port in reading.ports:
        now = port.counters.get("link_downed")
        grown = reading.increase(f"{port.entity}.link_downed", now, limits["window_s"]) if now is not None else None
        if grown and grown[0] >= limits["flaps"]:
            message = f"port {port.entity} went down {grown[0]:g} times in {grown[1] / 3600:.1f} h"
            yield CHECK.critical(port.entity, message, flaps=grown[0])
        elif grown and grown[0] > 0:
            yield CHECK.warning(port.entity, f"port {port.entity} went down {grown[0]:g} times in {grown[1] / 3600:.1f} h")


CHECK = Check(
    name="infiniband_flaps",
    what="The counter of lost links of each InfiniBand or RoCE port, over a day.",
    why="A link that flaps kills the job that runs over it, and then looks healthy again.",
    remedy="Clean or replace cable and transceiver; look at the switch's side.",
    false_alarms=(
        "A switch that was restarted takes all its links down once. After a day without a loss nothing is said any more."
    ),
    limits={"flaps": 5, "window_s": 86_400},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("devices",),
    contexts=("periodic",),
)
