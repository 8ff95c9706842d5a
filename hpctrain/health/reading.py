"""What was measured on one node at one moment (pure).

A check sees nothing but a Reading, so a recorded one replays exactly. A value that could not be read is None or absent:
a check treats it as unknown, never as zero.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One mounted file system.

    Attributes:
        size_bytes, available_bytes: total size, and what an ordinary user may still write.
        inodes, inodes_available: 0 and 0 where the file system does not count inodes.
        read_only: mounted read-only.
        expected_read_only: it is meant to be (from the mount table's type or a site's list).
    """

    mount: str
    kind: str
    size_bytes: int
    available_bytes: int
    inodes: int = 0
    inodes_available: int = 0
    read_only: bool = False
    expected_read_only: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """One node, once.

    Attributes:
        time: seconds since the epoch when the reading was taken.
        node: the node's name.
        uptime_s: seconds since boot, None if unknown.
        memory_bytes: memory the kernel manages, None if unknown.
        memory_expected_bytes: what Slurm was told the node has, None if unknown.
        file_systems: local and network file systems that hold data (not proc, sysfs and the like).
    """

    time: float
    node: str
    uptime_s: float | None = None
    memory_bytes: int | None = None
    memory_expected_bytes: int | None = None
    file_systems: tuple[FileSystem, ...] = ()
