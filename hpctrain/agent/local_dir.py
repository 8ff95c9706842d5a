"""A node-local directory per agent, and what dead agents left behind (adapter over the file system, standard library only).

The warden removes the directory of an agent that dies. When Slurm kills a whole step at once the warden dies too; then
the next agent of the same user on that host removes it. A lock tells a living agent's directory from a dead one's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

_LOCK = "lock"
UNLOCKED_PATIENCE_S = 3600.0
"""A directory without a lock file may just be in the making; after this long it is not."""


def claim(job: str, node: str) -> tuple[Path, int]:
    """Make a private directory for this agent; return it and the descriptor that holds its lock.

    All nodes of a private cluster share one host, so the name of the node is part of the path.
    """
    path = Path(tempfile.mkdtemp(prefix=f"{_prefix()}{job}-{node}-"))
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return path, lock


def remove_abandoned(now: float) -> list[Path]:
    """Remove this user's directories whose agents are gone; return them. Nothing here is worth failing for."""
    removed = []
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(tempfile.gettempdir())):
            with contextlib.suppress(OSError):
                if entry.name.startswith(_prefix()) and _abandoned(Path(entry.path), now):
                    shutil.rmtree(entry.path, ignore_errors=True)
                    removed.append(Path(entry.path))
    return removed


def directories() -> list[Path]:
    """This user's directories of agents, living and dead."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        return [Path(entry.path) for entry in entries if entry.name.startswith(_prefix()) and _is_ours(Path(entry.path))]
    return []


def _prefix() -> str:
    return f"hpctrain-{os.getuid()}-"


def _abandoned(path: Path, now: float) -> bool:
    if not _is_ours(path):
        return False  # in a directory that everybody may write to
    status = path.lstat()
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return now - status.st_mtime > UNLOCKED_PATIENCE_S
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _is_ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = path.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return False
