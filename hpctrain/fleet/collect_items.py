"""What a support bundle holds of a node, and what it never holds (pure)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

KIB = 2**10


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the bundle.

    Attributes:
        name: its name there, below the host's directory.
        argv: the command whose standard output it is.
        keep_bytes: so much of it is kept, of its beginning and of its end.
    """

    name: str
    argv: tuple[str, ...]
    keep_bytes: int = 256 * KIB


def _last(path: str, kib: int = 1024) -> tuple[str, ...]:
    return ("tail", "-c", str(kib * KIB), "--", path)


SOURCES: tuple[Source, ...] = (
    Source("versions/uname.txt", ("uname", "-a")),
    Source("versions/os-release.txt", ("cat", "/etc/os-release")),
    Source("versions/slurmd.txt", ("slurmd", "-V")),
    Source("versions/nvidia.txt", ("cat", "/proc/driver/nvidia/version")),
    Source("kernel/dmesg.txt", ("dmesg", "--time-format", "iso"), 2048 * KIB),
    Source("kernel/cmdline.txt", ("cat", "/proc/cmdline")),
    Source("kernel/modules.txt", ("cat", "/proc/modules")),
    Source("system/uptime.txt", ("cat", "/proc/uptime", "/proc/loadavg")),
    Source("system/meminfo.txt", ("cat", "/proc/meminfo")),
    Source("system/df.txt", ("df", "-PTl")),
    Source("system/df-inodes.txt", ("df", "-Pil")),
    Source("system/mounts.txt", ("cat", "/proc/mounts")),
    Source("system/processes.txt", ("ps", "-eo", "pid,ppid,user,stat,etimes,rss,wchan:24,comm")),
    Source("system/network.txt", ("ip", "-s", "-d", "link")),
    Source("gpu/nvidia-smi.txt", ("nvidia-smi", "-q"), 1024 * KIB),
    Source("logs/journal.txt", (
        "journalctl", "--no-pager", "-o", "short-iso", "--since", "-24h",
        "-u", "slurmd", "-u", "munge", "-u", "nvidia-fabricmanager", "-u", "nvidia-persistenced", "-u", "sshd", "-u", "ssh",
    ), 1024 * KIB),
    Source("logs/slurmd.log", _last("/var/log/slurm/slurmd.log"), 1024 * KIB),
    Source("slurm/slurm.conf", ("cat", "/etc/slurm/slurm.conf")),
    Source("slurm/gres.conf", ("cat", "/etc/slurm/gres.conf")),
    Source("slurm/cgroup.conf", ("cat", "/etc/slurm/cgroup.conf")),
    Source("health/health.json", ("cat", "/etc/hpctrain/health.json")),
    Source("health/health.env", ("cat", "/etc/hpctrain/health.env")),
)
"""In this order, until the limit of a host is reached. ``ps`` shows names of programs, not their arguments."""

_NEVER = re.compile(
    r"(^|/)(munge(/|\.key)|g?shadow-?$|ssl/private/|ssh_host_\w+_key$|\.ssh/|slurmdbd\.conf|jwt[\w.]*\.key|jwt_hs256|"
    r"slurm\.key|slurm\.jwks|\.netrc|\.aws/|\.kube/|\.docker/|sudoers)|"
    r"\.(key|pem|p12|pfx|kdbx|keytab|jwks)$|/krb5\.keytab|^/proc/\d+/(environ|mem)|^/dev/|^/proc/(kcore|self/)|"
    r"(^|/)id_(rsa|ecdsa|ed25519|dsa)$",
    re.I,
)


def refused(path: str) -> str:
    """Why a file is not collected; "" where it may be.

    Args:
        path: absolute, with links resolved.
    """
    if not path.startswith("/"):
        return "it has no absolute path"
    return "it holds secrets and nothing else" if _NEVER.search(path) else ""


def also_sources(paths: Sequence[str]) -> list[Source]:
    """Further files, by their resolved paths."""
    return [Source("also" + path, _last(path), 1024 * KIB) for path in paths]


def health_sources(state_dir: str, node: str) -> list[Source]:
    """The journal of a node's health checks."""
    base = f"{state_dir}/{node}"
    return [
        Source("health/events.jsonl", _last(f"{base}.events.jsonl", 512), 512 * KIB),
        Source("health/events.jsonl.1", _last(f"{base}.events.jsonl.1", 256)),
    ]
