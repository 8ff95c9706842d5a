"""What bounds this process's memory (adapter over ``/proc`` and control groups)."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hpctrain.checkpoint.memory_budget import Limit, cgroup_limit, parse_meminfo

_FILES = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))


def read_limits(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[Limit]:
    """The node, and every control group around this process that has a limit.

    Files that cannot be read say nothing: then there is one bound less to respect, not an error.
    """
    limits = []
    with contextlib.suppress(OSError, ValueError):
        limits.append(parse_meminfo((proc / "meminfo").read_text()))
    for folder in control_groups(proc, cgroups):
        for limit_file, usage_file in _FILES:
            limit = cgroup_limit(f"/{folder.relative_to(cgroups)}", _text(folder / limit_file), _text(folder / usage_file),
                                 _text(folder / "memory.stat"))
            if limit is not None:
                limits.append(limit)
    return limits


def control_groups(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """Directories of the control group for this process's memory and of all above it: each of them may have a limit."""
    found = []
    mounts = _mounts(proc, cgroups)
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root, mount = mounts.get(bool(controllers), ("/", cgroups / "memory" if controllers else cgroups))
        inner = _below(path, root)
        found += [mount / part for part in (inner, *inner.parents)]
    return list(dict.fromkeys(found))


def _mounts(proc: Path, cgroups: Path) -> dict[bool, tuple[str, Path]]:
    """Version 1 or not -> the group that is shown at the mount of its memory controller, and the mount.

    In a container the kernel names our group from the host's root, but only a part of the tree is mounted.
    """
    found: dict[bool, tuple[str, Path]] = {}
    for line in _text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3 or not Path(fields[4]).is_relative_to(cgroups):
            continue
        if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
            found[kind[0] == "cgroup"] = "/" if ".." in fields[3] else fields[3], Path(fields[4])
    return found


def _below(path: str, root: str) -> Path:
    """A group's place below the mount of ``root``; the mount itself where the group lies outside of what we see."""
    inner, top = Path(path), Path(root)
    if ".." in inner.parts or not inner.is_relative_to(top):
        return Path()
    return inner.relative_to(top)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
