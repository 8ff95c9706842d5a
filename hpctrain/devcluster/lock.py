"""One command at a time per cluster (adapter over ``flock``)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hpctrain.errors import ClusterError
from hpctrain.files import PRIVATE_FILE, make_private_dir, storage_errors

WAIT_S = 180.0
_POLL_S = 0.1


def lock_path(root: Path, name: str) -> Path:
    """The lock file of a cluster, beside its directory."""
    return root / f".{name}.lock"


@contextlib.contextmanager
def cluster_lock(root: Path, name: str, *, on_wait: Callable[[], None]) -> Iterator[Path]:
    """Hold the lock of a cluster; the kernel drops it however this process ends.

    Args:
        root: directory of all clusters, made if it is missing.
        on_wait: called once when another command holds the lock.

    Yields:
        The lock file; whoever removes the cluster removes it too, while it holds the lock.

    Raises:
        ClusterError: another command still holds it after three minutes.
    """
    path = lock_path(root, name)
    deadline = time.monotonic() + WAIT_S
    waited = False
    while (handle := _try_lock(path)) is None:
        if not waited:
            on_wait()
            waited = True
        if time.monotonic() > deadline:
            message = f"another command has been working on private cluster '{name}' for {WAIT_S:.0f} s"
            raise ClusterError(message, where=str(path), hint="wait for it, or end it")
        time.sleep(_POLL_S)
    try:
        yield path
    finally:
        os.close(handle)


def _try_lock(path: Path) -> int | None:
    """Descriptor of the locked file, None if somebody else has it."""
    make_private_dir(path.parent)
    with storage_errors(path):
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except FileNotFoundError:  # 'cluster down' removed the directory in between
            return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # 'cluster down' may have removed the file between our open and our lock: that lock would guard nothing.
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None
