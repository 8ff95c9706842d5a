"""The address under which other nodes reach this one (adapter over sockets)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Mapping

from hpctrain.errors import HpctrainError
from hpctrain.network import interface_address, interface_of


def own_address(interface: str, several_hosts: bool, env: Mapping[str, str]) -> tuple[str, str]:
    """The address under which the other nodes reach this one, and the interface it belongs to ("" if unimportant).

    With an interface it is that one's address. Otherwise the kernel is asked which address it would use to reach the
    host that launched the step: that is an address on the network that the nodes share, where the host name may stand
    for 127.0.1.1 as on Debian.

    Args:
        interface: name of a network interface, "" to choose.
        several_hosts: more than one node takes part; a loopback address then only serves where all share one host.
        env: the agent's environment, for Slurm's addresses.

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
        return "127.0.0.1", ""
    peer = env.get("SLURM_LAUNCH_NODE_IPADDR") or env.get("SLURM_SRUN_COMM_HOST") or ""
    address = _source_address(peer) or _resolved(socket.gethostname()) or "127.0.0.1"
    # gloo takes the address of the host name unless it is told an interface; where that is a loopback, it must be.
    hidden = _is_loopback(_resolved(socket.gethostname()) or "127.0.0.1")
    return address, (interface_of(address) if hidden else "")


def _source_address(peer: str) -> str | None:
    """Our address on the way to a peer; connecting a datagram socket sends nothing."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        if not peer:
            return None
        probe.connect((peer, 9))
        return str(probe.getsockname()[0])
    return None


def _resolved(name: str) -> str | None:
    with contextlib.suppress(OSError):
        return socket.gethostbyname(name)
    return None


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback
