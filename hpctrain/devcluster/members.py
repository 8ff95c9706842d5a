"""Which processes belong to a private cluster, and to which of its nodes (adapter over /proc).

All nodes share one host, so membership is what tells them apart: daemons name the cluster's slurm.conf in their
arguments; slurmstepd has its node's log open; job processes have slurm.conf and node in their environment or descend
from a slurmstepd. What escapes is a process that both clears its environment and leaves its
parents (``(setsid env -i program &)``): without cgroups nothing ties it to its job any more, for Slurm neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hpctrain.devcluster import processes
from hpctrain.devcluster.layout import Layout

CONTROLLER, MUNGE, SLURMD, STEP, TASK = "slurmctld", "munged", "slurmd", "slurmstepd", "task"


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a cluster.

    Attributes:
        started: clock ticks since boot, to tell it from a later process with the same pid.
        node: node it runs on; "" for the controller and munged.
    """

    pid: int
    started: int
    kind: str
    node: str = ""


def find_members(layout: Layout) -> list[Member]:
    """All processes of the cluster, without this one, daemons first and tasks last."""
    found: dict[int, Member] = {}
    parent_of = processes.parents()
    for pid in parent_of:
        if (member := _recognise(pid, layout)) is not None:
            found[pid] = member
    _add_descendants(found, parent_of)
    found.pop(processes.own_pid(), None)
    order = (CONTROLLER, SLURMD, STEP, TASK, MUNGE)
    return sorted(found.values(), key=lambda member: (order.index(member.kind), member.pid))


def of_node(members: Iterable[Member], node: str) -> list[Member]:
    """The processes of one node."""
    return [member for member in members if member.node == node]


def _recognise(pid: int, layout: Layout) -> Member | None:
    started = processes.start_ticks(pid)
    if started is None or not processes.shares_our_root(pid):
        return None
    arguments = processes.command_line(pid)
    name = processes.program(pid)
    conf = str(layout.slurm_conf)
    if name == MUNGE and f"--socket={layout.munge_socket}" in arguments:
        return Member(pid, started, MUNGE)
    if name == CONTROLLER and conf in arguments:
        return Member(pid, started, CONTROLLER)
    if name == SLURMD and conf in arguments:
        return Member(pid, started, SLURMD, _node_argument(arguments))
    if name == STEP:
        # Slurm 24.11 gives it no environment at all, and no version tells it its node's name.
        node = _node_of_step(pid, layout)
        return Member(pid, started, STEP, node) if node else None
    environment = processes.environment(pid)
    if environment.get("SLURM_CONF") != conf:
        return None
    # A shell that was told about the cluster has SLURM_CONF too; only a job's processes have SLURMD_NODENAME.
    node = environment.get("SLURMD_NODENAME", "")
    return Member(pid, started, TASK, node) if node else None


def _node_argument(arguments: tuple[str, ...]) -> str:
    place = arguments.index("-N") if "-N" in arguments else -1
    return arguments[place + 1] if 0 <= place < len(arguments) - 1 else ""


def _node_of_step(pid: int, layout: Layout) -> str:
    """The node whose log the step daemon writes, "" if it is none of ours."""
    prefix = f"{layout.logs}/"
    for target in processes.open_files(pid):
        if target.startswith(prefix):
            return target[len(prefix) :].partition(".log")[0]
    return ""


def _add_descendants(found: dict[int, Member], parent_of: dict[int, int]) -> None:
    """Add what daemons and steps have started and what has hidden its environment since."""
    for root in list(found.values()):
        if root.kind == MUNGE:
            continue
        for pid in processes.descendants([root.pid], parent_of):
            started = processes.start_ticks(pid)
            if pid not in found and started is not None:
                found[pid] = Member(pid, started, CONTROLLER if root.kind == CONTROLLER else TASK, root.node)
