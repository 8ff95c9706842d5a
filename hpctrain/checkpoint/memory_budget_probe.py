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
    for folder in _folders(proc, cgroups):
        for limit_file, usage_file in _FILES:
            limit = cgroup_limit(f"/{folder.relative_to(cgroups)}", _text(folder / limit_file), _text(folder / usage_file),
                                 _text(folder / "memory.stat"))
            if limit is not None:
                limits.append(limit)
    return limits


def _folders(proc: Path, cgroups: Path) -> list[Path]:
    """Our control group and all above it: each of them may have a limit."""
    found = []
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / "memory" if controllers else cgroups
        inner = Path(path.lstrip("/"))
        if ".." in inner.parts:  # we are in a namespace, and our group lies outside of what we see
            inner = Path()
        found += [root / part for part in (inner, *inner.parents)]
    return list(dict.fromkeys(found))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
