"""Playing the death and the return of a node of a private cluster (service)."""

from __future__ import annotations

from hpctrain.clock import Clock
from hpctrain.devcluster import daemons
from hpctrain.devcluster.cluster import KILL_REASON, is_resumable
from hpctrain.devcluster.control import Control, NodeState
from hpctrain.devcluster.kill import kill_members
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.members import Member, find_members, of_node
from hpctrain.devcluster.state import ClusterInfo, daemon_pid
from hpctrain.errors import ClusterError, NoSuchNodeError

_RETURN_TIMEOUT_S = 30.0
_POLL_S = 0.05


def check_node(cluster: ClusterInfo, node: str) -> None:
    """Refuse a node that the cluster does not have. Raises NoSuchNodeError."""
    if node not in cluster.nodes:
        have = f"{cluster.nodes[0]} to {cluster.nodes[-1]}" if len(cluster.nodes) > 1 else cluster.nodes[0]
        raise NoSuchNodeError(f"private cluster '{cluster.name}' has no node {node!r}", hint=f"it has {have}")


def node_members(layout: Layout, node: str) -> list[Member]:
    """The processes of a node: its slurmd, step daemons and tasks."""
    return of_node(find_members(layout), node)


def kill_node(layout: Layout, node: str, clock: Clock, *, silent: bool) -> list[Member]:
    """Kill everything that runs on a node at once, as a power failure would; return what was killed.

    Args:
        silent: let Slurm find out by itself (after SlurmdTimeout); otherwise the node is set DOWN.

    Raises:
        ClusterError: a process cannot be killed, or the controller does not answer.
    """
    killed = kill_members(layout, lambda member: member.node == node, clock)
    if not silent:
        control = Control(layout)
        # Somebody's own reason says why the node is out of service already: that must survive.
        state = control.nodes()[node]
        control.set_down(node, KILL_REASON if state.in_service or is_resumable(state) else state.reason or KILL_REASON)
    return killed


def start_node(layout: Layout, spec: Spec, node: str, clock: Clock) -> NodeState:
    """Start a node's slurmd as after a boot, wait until it answers and put the node back into service.

    A node that a person took out of service answers afterwards, but stays out; the returned state says so.

    Raises:
        ClusterError: slurmd does not start (with its log) or the controller does not hear from it.
    """
    control = Control(layout)
    before = control.nodes()[node].slurmd_started
    started = daemon_pid(layout, node) is None
    if started:
        daemons.start_slurmd(layout, spec, node, rebooted=True)
    begun = clock.monotonic()
    while True:
        state = control.nodes()[node]
        # The start time has a resolution of one second: a node killed right after its start may keep the old one.
        registered = not started or state.slurmd_started != before or clock.monotonic() - begun > 2.0
        if registered and state.responds:
            if not is_resumable(state):
                return state
            control.resume([node])
        if daemon_pid(layout, node) is None or clock.monotonic() - begun > _RETURN_TIMEOUT_S:
            told = daemons.why_down(layout, node)
            message = f"node {node} does not come back" + (":\n  " + told.replace("\n", "\n  ") if told else "")
            raise ClusterError(message, where=str(layout.log(node)))
        clock.sleep(_POLL_S)
