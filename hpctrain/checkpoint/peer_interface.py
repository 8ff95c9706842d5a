"""Which network interface an address belongs to (adapter over the kernel's lists)."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from contextlib import suppress
from pathlib import Path

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 16


def interface_of(address: str, *, inet6: Path = Path("/proc/net/if_inet6")) -> str:
    """Name of the interface that has an address; "" when none has."""
    with suppress(ValueError, OSError):
        wanted = ipaddress.ip_address(address.partition("%")[0])
        if wanted.version == 6 and wanted.ipv4_mapped is None:
            for line in inet6.read_text().splitlines():
                digits, _, _, _, _, name = line.split()
                if ipaddress.IPv6Address(bytes.fromhex(digits)) == wanted:
                    return name
            return ""
        plain = str(wanted.ipv4_mapped if isinstance(wanted, ipaddress.IPv6Address) else wanted)
        for _, name in socket.if_nameindex():
            if _ipv4(name) == plain:
                return name
        if wanted.is_loopback:
            return "lo"
    return ""


def _ipv4(name: str) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, struct.pack(f"{_NAME_BYTES}s24x", name.encode()[:_NAME_BYTES - 1]))
        return socket.inet_ntoa(answer[20:24])
    return ""
