"""Ask every file system that holds data for its size; one that does not answer is skipped, not waited for (adapter)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpctrain.health.probe_child import Report

DATA_KINDS = frozenset(
    {
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "tmpfs",
        "overlay",
        "vfat",
        "cifs",
        "fuse",
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "wekafs",
    }
)
"""File systems that hold data; everything else in the mount table is a window into the kernel."""
NETWORK_KINDS = frozenset({"cifs", "fuse", "nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "wekafs"})
READ_ONLY_KINDS = frozenset({"squashfs", "iso9660", "cvmfs", "erofs"})
STEP = "statvfs of "
"""What a step begins with; the rest is the mount that does not answer."""


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table."""

    path: str
    kind: str
    read_only: bool

    @property
    def over_network(self) -> bool:
        """A server answers for it, or does not."""
        return self.kind in NETWORK_KINDS


def mount_table(proc: str) -> list[Mount]:
    """The file systems that hold data, local ones first; later mounts hide earlier ones on the same path."""
    try:
        lines = Path(f"{proc}/self/mounts").read_text(errors="replace").splitlines()
    except OSError:
        return []
    found: dict[str, Mount] = {}
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        path, kind = _unescape(fields[1]), fields[2].split(".")[0]
        found.pop(path, None)
        if kind in DATA_KINDS | READ_ONLY_KINDS:
            found[path] = Mount(path, kind, "ro" in fields[3].split(","))
    return sorted(found.values(), key=lambda mount: mount.over_network)


def read_mounts(report: Report, mounts: Iterable[Mount]) -> None:
    """Tell each file system as it answers; the step names the one that is being asked."""
    for mount in mounts:
        report.step(STEP + mount.path)
        report.emit(file_system=dict(_ask(mount)))


def _ask(mount: Mount) -> Iterator[tuple[str, object]]:
    yield from (("mount", mount.path), ("kind", mount.kind), ("read_only", mount.read_only))
    yield "expected_read_only", mount.kind in READ_ONLY_KINDS
    started = time.monotonic()
    try:
        stat = os.statvfs(mount.path)
    except OSError as error:
        yield from (("size_bytes", 0), ("available_bytes", 0), ("error", error.strerror or str(error)))
        return
    yield from (
        ("size_bytes", stat.f_blocks * stat.f_frsize),
        ("available_bytes", stat.f_bavail * stat.f_frsize),
        ("inodes", stat.f_files),
        ("inodes_available", stat.f_favail),
        ("took_s", time.monotonic() - started),
    )


def silent(mount: Mount, took_s: float) -> dict[str, object]:
    """The record of a file system that did not answer within its deadline."""
    return {
        "mount": mount.path,
        "kind": mount.kind,
        "size_bytes": 0,
        "available_bytes": 0,
        "answers": False,
        "took_s": took_s,
    }


def _unescape(field: str) -> str:
    # The kernel writes blank, tab, newline and backslash in mount points as three octal digits.
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, char)
    return field
