"""Free TCP ports in a row (adapter over sockets)."""

from __future__ import annotations

import socket
from pathlib import Path
from random import Random

from hpctrain.errors import ClusterError

LOWEST = 10_000
"""Below are the ports of well-known services."""

_LISTEN = "0A"  # the state's number in /proc/net/tcp


def is_free(port: int) -> bool:
    """Nobody listens on the port, on any address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As Slurm does, so that a connection that lingers in TIME_WAIT does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def listens(port: int) -> bool:
    """Somebody listens on the port; read from the kernel's table, so that nobody is disturbed by a connection."""
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        try:
            rows = table.read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                return True
    return False


def free_block(count: int, random: Random) -> int:
    """First of ``count`` free ports in a row, from a place that ``random`` picks.

    They lie below the range that outgoing connections are given, so that a daemon that is down for a while finds its
    port free when it comes back.

    Raises:
        ClusterError: there is no such row.
    """
    highest = _first_ephemeral() - 1
    span = highest - LOWEST + 1 - count
    if span < 0:
        raise ClusterError(f"there are not {count} ports between {LOWEST} and {highest}", hint="make a smaller cluster")
    first = LOWEST + random.randint(0, span)
    run = 0
    # Once around, and over the start again for a row that lies across it.
    for offset in range(highest - LOWEST + 1 + count):
        port = LOWEST + (first - LOWEST + offset) % (highest - LOWEST + 1)
        run = 0 if port == LOWEST else run
        run = run + 1 if is_free(port) else 0
        if run == count:
            return port - count + 1
    raise ClusterError(f"no {count} free ports in a row between {LOWEST} and {highest}", hint="make a smaller cluster")


def _first_ephemeral() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
