"""Look at processes: who is stuck, who serves, who holds what (adapter over /proc)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hpctrain.health.probe_child import Report
from hpctrain.health.sysfs import text, to_whole, whole

_JOB_IN_CGROUP = re.compile(r"/job_(\d+)(?:/|$)")
_MOST_TOLD = 256
_NAME_LENGTH = 15
"""The kernel cuts process names after so many characters."""


def read_processes(report: Report, *, proc: str = "/proc", sys: str = "/sys", services: Iterable[str] = ()) -> None:
    """Tell blocked processes and zombies, limits of the system, and whether the services run."""
    report.step(f"reading {proc}")
    count, names = 0, set()
    for pid in _pids(proc):
        stat = _stat(proc, pid)
        if stat is None:
            continue  # it has ended meanwhile
        count += 1
        name, state, started = stat
        names.add(name)
        if state in ("D", "Z") and count < 100_000:
            report.emit(
                process={
                    "pid": pid,
                    "name": name,
                    "state": state,
                    "started": started,
                    "waits_in": text(f"{proc}/{pid}/wchan")[:64] if state == "D" else "",
                    "uid": _uid(proc, pid),
                }
            )
    report.emit(
        host={
            "process_count": count,
            "process_limit": whole(f"{proc}/sys/kernel/pid_max"),
            "files_open": to_whole((text(f"{proc}/sys/fs/file-nr").split() or [""])[0]),
            "files_limit": whole(f"{proc}/sys/fs/file-max"),
        }
    )
    for service in services:
        report.emit(service={"name": service, "running": _runs(service, names, sys)})


def describe_process(proc: str, pid: int) -> dict[str, Any] | None:
    """Name, user and Slurm job of a process; None if it does not exist (any more)."""
    stat = _stat(proc, pid)
    return {"name": stat[0], "uid": _uid(proc, pid), "job_id": job_of(proc, pid)} if stat else None


def job_of(proc: str, pid: int) -> str:
    """The Slurm job a process belongs to: from its cgroup, which it cannot change, else from its environment; "" if none."""
    match = _JOB_IN_CGROUP.search(text(f"{proc}/{pid}/cgroup"))
    return match.group(1) if match else environment_of(proc, pid).get("SLURM_JOB_ID", "")


def environment_of(proc: str, pid: int) -> dict[str, str]:
    """The environment a process was started with; empty if we may not see it."""
    try:
        raw = Path(f"{proc}/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.decode(errors="replace").partition("=") for entry in raw.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}


def _pids(proc: str) -> Iterator[int]:
    try:
        entries = os.listdir(proc)
    except OSError:
        return
    yield from (int(entry) for entry in entries if entry.isdecimal() and len(entry) < 10)


def _stat(proc: str, pid: int) -> tuple[str, str, float] | None:
    """Name, state and start in seconds since boot. A name may hold blanks and parentheses."""
    line = text(f"{proc}/{pid}/stat")
    head, _, tail = line.rpartition(")")
    fields = tail.split()
    if not head or len(fields) < 20 or len(fields[0]) != 1:
        return None
    started = to_whole(fields[19])
    return head.partition("(")[2], fields[0], (started or 0) / os.sysconf("SC_CLK_TCK")


def _uid(proc: str, pid: int) -> int | None:
    try:
        return os.stat(f"{proc}/{pid}").st_uid  # noqa: PTH116 - thousands of these; Path costs ten times as much
    except OSError:
        return None


def _runs(service: str, names: set[str], sys: str) -> bool:
    """A process of that name runs, or systemd's unit of that name has one."""
    unit = service if "." in service else f"{service}.service"
    return service[:_NAME_LENGTH] in names or bool(text(f"{sys}/fs/cgroup/system.slice/{unit}/cgroup.procs"))
