"""Read this node's memory, uptime and file systems from /proc and statvfs (adapter)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from hpctrain.health.reading import FileSystem, Reading

DATA_KINDS = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "tmpfs", "overlay", "vfat", "cifs", "fuse",
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs",
})
"""File systems that hold data; everything else in the mount table is a window into the kernel."""
READ_ONLY_KINDS = frozenset({"squashfs", "iso9660", "cvmfs", "erofs"})


def read_host(node: str, *, proc: Path = Path("/proc")) -> Reading:
    """Take a reading of this host under the given node name; what cannot be read is left unknown.

    A hanging network file system blocks statvfs: callers that must not wait run this in a child they can abandon.
    """
    return Reading(
        time=time.time(),
        node=node,
        uptime_s=_first_number(proc / "uptime"),
        memory_bytes=_memory_bytes(proc / "meminfo"),
        file_systems=tuple(_file_systems(proc / "self" / "mounts")),
    )


def _first_number(path: Path) -> float | None:
    try:
        return float(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None


def _memory_bytes(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _file_systems(mounts: Path) -> Iterable[FileSystem]:
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return
    seen: set[str] = set()
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        mount, kind, options = _unescape(fields[1]), fields[2].split(".")[0], fields[3].split(",")
        if kind not in DATA_KINDS | READ_ONLY_KINDS or mount in seen or not Path(mount).is_dir():
            continue
        seen.add(mount)
        try:
            stat = os.statvfs(mount)
        except OSError:
            continue
        yield FileSystem(
            mount=mount, kind=kind, size_bytes=stat.f_blocks * stat.f_frsize, available_bytes=stat.f_bavail * stat.f_frsize,
            inodes=stat.f_files, inodes_available=stat.f_favail, read_only="ro" in options,
            expected_read_only=kind in READ_ONLY_KINDS,
        )


def _unescape(field: str) -> str:
    # The kernel writes blank, tab, newline and backslash in mount points as three octal digits.
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
