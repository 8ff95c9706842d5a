"""Network adapters that say that they are unwell (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:  # noqa: ARG001 - every check has this form
    """Report what the driver of a Mellanox or NVIDIA adapter writes about heat, power and firmware."""
    for event in reading.events("network"):
        yield CHECK.critical(event.entity, f"network adapter {event.entity}: {event.text}", count=event.count)


CHECK = Check(
    name="network_adapters",
    what="Lines of the mlx5 driver about temperature, missing power and firmware trouble.",
    why="Such an adapter drops links or throttles.",
    remedy="Look at air flow and the power limit of the slot; update the firmware; replace the adapter.",
    false_alarms="None known.",
    limits={},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("kernel_log",),
)
