"""Take out of service what deep checks blame, within the limits on drains of ours (service over Slurm and the journal).

A node that a person has drained keeps that reason, one that we have drained already keeps its first. Nodes drained here do
not return by themselves: no reading shows what a deep check found.
"""

from __future__ import annotations

from collections.abc import Mapping

from hpctrain.health.policy import DEEP_PREFIX, Limits, Step, is_persons, permitted
from hpctrain.nodes.acts import Acts, Wish
from hpctrain.nodes.record import DONE
from hpctrain.nodes.site import Site
from hpctrain.nodes.view import Fleets, Viewer, is_out
from hpctrain.slurm.model import Node

LONGEST_REASON = 200


def drain_blamed(
    site: Site, acts: Acts, viewer: Viewer, blamed: Mapping[str, str], by: str, *, dry_run: bool = False
) -> dict[str, str]:
    """What was or would be done about each node, in one sentence.

    Args:
        blamed: node -> why, those that matter most first.
        by: who wants it, for the journal.

    Raises:
        ControllerDownError: Slurm does not answer.
        StorageError: the journal cannot be written.
    """
    everything = {str(node.name): node for node in site.slurm.nodes()}
    fleets = viewer.fleets(list(everything.values()), acts.book)
    told: dict[str, str] = {}
    for name, why in blamed.items():
        node, wish = everything.get(name), Wish(Step.DRAIN, name, f"{DEEP_PREFIX} {why}"[:LONGEST_REASON], "deep check", by)
        if kept := _kept(node, fleets, site.settings.limits):
            told[name] = f"left alone: {kept}"
            continue
        if node is not None:
            fleets.drained(node)
        told[name] = f"would be drained: {wish.reason}" if dry_run else _drain(acts, wish)
    return told


def _kept(node: Node | None, fleets: Fleets, limits: Limits) -> str:
    """Why the node is not drained; "" if it may be."""
    if node is None:
        return "Slurm does not know it"
    if is_out(node):
        who = "by somebody else" if is_persons(True, node.reason) else "by us"
        return f"it is out of service already, {who}: '{node.reason}'"
    fleet, most = fleets.of(node), permitted(fleets.of(node), limits)
    if fleet.drained_by_us >= most:
        return f"{fleet.drained_by_us} of {fleet.nodes} nodes are drained by us, and {most} are permitted"
    return ""


def _drain(acts: Acts, wish: Wish) -> str:
    _, end = acts.begin(wish)
    if end is None or end.kind != DONE:
        return f"could not be drained: {end.reason if end else 'it goes on'}"
    return f"drained: {wish.reason}"
