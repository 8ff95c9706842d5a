"""Ports that nobody can take in between, and which interface an address belongs to (adapter over sockets).

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
from pathlib import Path

from hpctrain.errors import HpctrainError

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 16


class HeldPort:
    """A TCP port that belongs to us until :meth:`close`. Raises HpctrainError where none can be bound."""

    def __init__(self) -> None:
        self._socket = _bound_socket()
        self.port: int = self._socket.getsockname()[1]

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()


def interface_address(interface: str) -> str | None:
    """IPv4 address of an interface, None if it has none or does not exist."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        request = struct.pack(f"{_NAME_BYTES}s24x", os.fsencode(interface)[:_NAME_BYTES - 1])
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24])
    return None


def interface_of(address: str, *, inet6: Path = Path("/proc/net/if_inet6")) -> str:
    """Name of the interface that has an address; "" when none has."""
    with contextlib.suppress(ValueError, OSError):
        wanted = ipaddress.ip_address(address.partition("%")[0])
        if wanted.version == 6 and wanted.ipv4_mapped is None:
            for line in inet6.read_text().splitlines():
                digits, _, _, _, _, name = line.split()
                if ipaddress.IPv6Address(bytes.fromhex(digits)) == wanted:
                    return name
            return ""
        plain = str(wanted.ipv4_mapped if isinstance(wanted, ipaddress.IPv6Address) else wanted)
        for _, name in socket.if_nameindex():
            if interface_address(name) == plain:
                return name
        if wanted.is_loopback:
            return "lo"
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
