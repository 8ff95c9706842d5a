"""Take out of service what deep checks blame, within the limit on drains of ours (service over Slurm).

A node that a person has drained keeps that reason, one that we have drained already keeps its first. Nodes drained here do
not return by themselves: no reading shows what a deep check found.
"""

from __future__ import annotations

from collections.abc import Mapping

from hpctrain.health.policy import DEEP_PREFIX, Fleet, Limits, is_persons, permitted
from hpctrain.ids import NodeName
from hpctrain.slurm.port import Slurm

LONGEST_REASON = 200


def drain_blamed(slurm: Slurm, blamed: Mapping[str, str], limits: Limits, *, dry_run: bool = False) -> dict[str, str]:
    """What was or would be done about each node, in one sentence.

    Args:
        blamed: node -> why.

    Raises:
        SlurmError: Slurm does not answer, or does not permit it.
    """
    done: dict[str, str] = {}
    for name, why in blamed.items():
        everything = slurm.nodes()
        node = next((one for one in everything if one.name == name), None)
        if node is None:
            done[name] = "left alone: Slurm does not know it"
            continue
        if is_persons(node.drained, node.reason):
            done[name] = f"left alone: drained by {node.reason_user or 'somebody'} already: '{node.reason}'"
            continue
        if node.drained:
            done[name] = f"is drained by us already: '{node.reason}'"
            continue
        sizes = {part: [one for one in everything if part in one.partitions] for part in node.partitions}
        members = min(sizes.values(), key=len, default=everything)
        ours = sum(one.drained and not is_persons(True, one.reason) for one in members)
        most = permitted(Fleet(len(members), ours), limits)
        if ours >= most:
            done[name] = f"left alone: {ours} of {len(members)} nodes are drained by us, and {most} are permitted"
            continue
        reason = f"{DEEP_PREFIX} {why}"[:LONGEST_REASON]
        if not dry_run:
            slurm.drain([NodeName(name)], reason)
        done[name] = f"{'would be ' if dry_run else ''}drained: {reason}"
    return done
