"""Network interfaces and bonds that are down (pure)."""

from __future__ import annotations

from collections.abc import Iterator

from hpctrain.health.finding import Action, Check, Finding, Limits, Mode
from hpctrain.health.reading import Reading


def run(reading: Reading, limits: Limits) -> Iterator[Finding]:
    """Report expected interfaces that are down or missing, bonds that lost a member, and links that flap."""
    known = {net.name: net for net in reading.interfaces}
    for name in reading.expected.interfaces:
        if name not in known:
            if reading.interfaces:
                yield CHECK.critical(name, f"there is no network interface {name}")
        elif known[name].state not in ("up", "unknown"):
            yield CHECK.critical(name, f"network interface {name} is {known[name].state}", state=known[name].state)
    for net in reading.interfaces:
        lost = sorted(set(net.bond_members) - set(net.bond_members_up))
        if lost and net.bond_members_up:
            yield CHECK.warning(net.name, f"bond {net.name} has lost {', '.join(lost)}", lost=lost)
        now = net.carrier_losses
        grown = reading.increase(f"{net.name}.carrier_losses", now, limits["window_s"]) if now is not None else None
        if grown and grown[0] >= limits["losses"]:
            yield CHECK.warning(net.name, f"network interface {net.name} lost its link {grown[0]:g} times", losses=grown[0])


CHECK = Check(
    name="ethernet_links",
    what="Interfaces that the site expects, members of bonds, and how often a link was lost.",
    why="The storage network and Slurm itself go over these.",
    remedy="Look at cable, transceiver and switch port.",
    false_alarms="Interfaces that are not cabled are reported only if the site names them.",
    limits={"losses": 3, "window_s": 86_400},
    run=run,
    mode=Mode.WARN,
    action=Action.INSPECT,
    needs=("devices",),
)
