"""The address under which other nodes reach this one (adapter over sockets)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence

from hpctrain.agent.rank_environment import COORDINATOR
from hpctrain.errors import HpctrainError
from hpctrain.network import interface_address, interface_of

LOOPBACK = "127.0.0.1"
_ENOUGH_NODES = 3
"""Nodes that are tried by name: a name server that does not answer costs seconds for each."""


def own_address(
    interface: str, several_hosts: bool, env: Mapping[str, str], nodes: Sequence[str] = (),
) -> tuple[str, str]:
    """The address under which the other nodes reach this one, and the interface it belongs to ("" if unimportant).

    With an interface it is that one's address. Otherwise the kernel is asked which address it would use to reach the
    coordinator, or the host that launched the step: that is an address on the network that the nodes share, where the host
    name may stand for 127.0.1.1 as on Debian. The coordinator itself, which nobody launched from elsewhere, takes the
    address of its host name, or where that is a loopback the one towards another node of the job.

    Args:
        interface: name of a network interface, "" to choose.
        several_hosts: more than one node takes part; a loopback address then only serves where all share one host.
        env: the agent's environment, for the coordinator's address and Slurm's.
        nodes: names of the job's nodes.

    Raises:
        HpctrainError: there is no such interface, or it has no IPv4 address.
    """
    if interface:
        address = interface_address(interface)
        if address is None:
            known = ", ".join(name for _, name in socket.if_nameindex())
            node = env.get("SLURMD_NODENAME") or socket.gethostname()
            raise HpctrainError(
                f"network interface {interface!r} has no IPv4 address on {node}",
                hint=f"set resources.interface to one of: {known}",
            )
        return address, interface
    if not several_hosts:
        return LOOPBACK, ""
    named = _resolved(socket.gethostname()) or LOOPBACK
    address = _towards(_launchers(env))
    if not _is_loopback(named):
        return address or named, ""
    address = address or _towards(nodes[:_ENOUGH_NODES]) or LOOPBACK
    # gloo takes the address of the host name unless it is told an interface; where that is a loopback, it must be.
    return address, interface_of(address)


def _launchers(env: Mapping[str, str]) -> Iterable[str]:
    """Addresses of hosts that have reached us: the coordinator's, then the one that Slurm names."""
    coordinator = env.get(COORDINATOR, "").rpartition(":")[0]
    return filter(None, (coordinator, env.get("SLURM_LAUNCH_NODE_IPADDR"), env.get("SLURM_SRUN_COMM_HOST")))


def _towards(peers: Iterable[str]) -> str | None:
    """Our address on the way to the first of these that is not this host; a loopback leads nowhere else."""
    found = (_source_address(peer) for peer in peers)
    return next((address for address in found if address is not None and not _is_loopback(address)), None)


def _source_address(peer: str) -> str | None:
    """Our address on the way to a peer; connecting a datagram socket sends nothing."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])
    return None


def _resolved(name: str) -> str | None:
    with contextlib.suppress(OSError):
        return socket.gethostbyname(name)
    return None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
