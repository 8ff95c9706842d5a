"""The failures of a run, kept in ``control/attempts.jsonl`` (adapter over the file system, standard library only).

Coordinator, agents without one, and watchdog append to it, each line in one write and forced to disk, before they act on it:
a restart that nobody counted could go on for ever. One start of a job ends once, so its end is counted once, whoever comes
first (:attr:`hpctrain.watchdog.budget.Attempt.end`). A line that was torn by a crash is passed over.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hpctrain.files import PRIVATE_FILE, append_jsonl, make_private_dir, read_jsonl
from hpctrain.jobs.layout import RunDir
from hpctrain.watchdog.budget import Attempt, end_among

_LOCK_S = 5.0
_LOCK_POLL_S = 0.05


def attempts_path(run_dir: RunDir) -> Path:
    """``control/attempts.jsonl``."""
    return run_dir.control / "attempts.jsonl"


def append(run_dir: RunDir, attempt: Attempt) -> bool:
    """Add one, durably; False where this end of a start of the job is counted already, and nothing was added.

    Raises:
        StorageError: no space, no permission, read-only file system.
    """
    make_private_dir(run_dir.control)
    path = attempts_path(run_dir)
    with _locked(run_dir.control / "attempts.lock"):
        if attempt.end is not None and end_among(read(run_dir), attempt) is not None:
            return False
        append_jsonl(path, attempt.to_json(), durable=True)
    return True


def read(run_dir: RunDir) -> list[Attempt]:
    """All of them in the order they were written; [] where there are none yet."""
    found = []
    for record in read_jsonl(attempts_path(run_dir)):
        with contextlib.suppress(ValueError):
            found.append(Attempt.from_json(record))
    return found


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else appends meanwhile, also from other hosts where the file system has locks for them.

    Where a lock cannot be had, a failure that is counted twice is better than a job that waits for ever.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError:
        yield  # the append will say what is wrong
        return
    try:
        deadline = time.monotonic() + _LOCK_S
        while not _take(handle) and time.monotonic() < deadline:
            time.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(handle)


def _take(handle: int) -> bool:
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # no locks here
    return True
