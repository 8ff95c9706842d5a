"""Which processes run here, and whose they are, read from /proc (adapter over /proc).

A pid alone proves nothing: it may have been given to another program since. Everything that is signalled is first
recognised by its command line, its environment or its open files, and signalled through a pidfd where the kernel has
one, so that a pid that changes hands in between is never hit.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")


def own_pid() -> int:
    """Pid of this process."""
    return os.getpid()


def all_pids() -> Iterator[int]:
    """Pids of all processes that can be seen, in no particular order."""
    for entry in os.scandir(PROC):
        if entry.name.isdigit():
            yield int(entry.name)


def is_alive(pid: int) -> bool:
    """The process exists and still runs: a zombie that nobody has reaped counts as gone."""
    fields = _stat_fields(pid)
    return bool(fields) and fields[0] not in ("Z", "X", "x")


def command_line(pid: int) -> tuple[str, ...]:
    """Arguments of a process; empty for one that is gone, a zombie or a kernel thread."""
    return tuple(_nul_separated(PROC / str(pid) / "cmdline"))


def environment(pid: int) -> dict[str, str]:
    """Environment that a process was started with; empty where it may not be read."""
    pairs = (item.partition("=") for item in _nul_separated(PROC / str(pid) / "environ"))
    return {name: value for name, _, value in pairs}


def program(pid: int) -> str:
    """Name of the program as the kernel knows it (at most 15 characters)."""
    try:
        return (PROC / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def shares_our_root(pid: int) -> bool:
    """The process sees the same files as we do; where that may not be read, it is assumed.

    A chroot or container may have a cluster of the same path, and its processes are visible from outside.
    """
    try:
        theirs = (PROC / str(pid) / "root").stat()
    except OSError:
        return True
    ours = Path("/").stat()
    return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)


def open_files(pid: int) -> list[str]:
    """Targets of the process's file descriptors; empty where they may not be read."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(PROC / str(pid) / "fd"):
            with contextlib.suppress(OSError):
                found.append(os.readlink(entry.path))  # noqa: PTH115 - the target is text such as "socket:[1]", no path
    return found


def parents() -> dict[int, int]:
    """Parent of every process that is alive."""
    table: dict[int, int] = {}
    for pid in all_pids():
        fields = _stat_fields(pid)
        if fields and fields[0] not in ("Z", "X", "x"):
            table[pid] = int(fields[1])
    return table


def descendants(roots: Iterable[int], parent_of: dict[int, int]) -> set[int]:
    """The processes below ``roots`` in a table that :func:`parents` returned (the roots not included)."""
    children: dict[int, list[int]] = {}
    for pid, parent in parent_of.items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found


def read_pid_file(path: Path) -> int | None:
    """The pid that a daemon wrote, None if there is no such file or nothing sensible in it."""
    try:
        pid = int(path.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if pid > 1 else None


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot: with the pid, the identity of a process."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


def send(pid: int, sig: signal.Signals, *, started: int | None) -> bool:
    """Signal a process if it is still the one that started at ``started``; say whether it was signalled."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    except (AttributeError, OSError):  # a kernel before 5.3, or a sandbox that forbids it
        handle = -1
    try:
        if started is None or start_ticks(pid) != started:
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, sig)
        else:
            os.kill(pid, sig)
    except ProcessLookupError:
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (the third of proc(5)); the name before it may hold anything."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _nul_separated(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
    except OSError:
        return []
    return [item.decode(errors="replace") for item in data.split(b"\0") if item]
