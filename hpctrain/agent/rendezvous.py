"""A port for rank 0's store that nobody can take in between, and an address other nodes reach (adapter over sockets).

Handing out "a free port" usually means: bind port 0, read the number, close, and hope. Here the socket stays bound
and never listens. Linux then lets a socket with ``SO_REUSEADDR`` bind and listen on the same port (torch's TCPStore
sets it, with and without libuv), refuses it to everybody without, and never picks it for port 0 or for an outgoing
connection. Checked with torch 2.13 for IPv4 and for dual-stack IPv6 sockets.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Mapping

from hpctrain.errors import HpctrainError

_SIOCGIFADDR = 0x8915


class HeldPort:
    """A TCP port that belongs to us until :meth:`close`."""

    def __init__(self) -> None:
        self._socket = _bound_socket()
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


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


def interface_address(interface: str) -> str | None:
    """IPv4 address of an interface, None if it has none or does not exist."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack("256s", os.fsencode(interface)[:15])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
    return None


def interface_of(address: str) -> str:
    """Name of the interface that has an IPv4 address, "" if none does."""
    for _, name in socket.if_nameindex():
        if interface_address(name) == address:
            return name
    return ""


def _bound_socket() -> socket.socket:
    # Dual stack where the host has IPv6, so that neither family's wildcard address is left free.
    for family, wildcard in ((socket.AF_INET6, "::"), (socket.AF_INET, "")):
        holder = None
        try:
            holder = socket.socket(family, socket.SOCK_STREAM)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            holder.bind((wildcard, 0))
            return holder
        except OSError:
            if holder is not None:
                holder.close()
    raise HpctrainError("no TCP port can be bound on this node", hint="its ephemeral ports may be used up: see 'ss -s'")


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
