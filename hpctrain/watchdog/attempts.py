"""The failures of a run, kept in ``control/attempts.jsonl`` (adapter over the file system, standard library only).

Coordinator and watchdog append to it, each line in one write and forced to disk, before they act on it: a restart that
nobody counted could go on for ever. A line that was torn by a crash is passed over.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from hpctrain.files import PRIVATE_FILE, make_private_dir, read_jsonl, storage_errors, sync_dir
from hpctrain.jobs.layout import RunDir
from hpctrain.watchdog.budget import Attempt


def attempts_path(run_dir: RunDir) -> Path:
    """``control/attempts.jsonl``."""
    return run_dir.control / "attempts.jsonl"


def append(run_dir: RunDir, attempt: Attempt) -> None:
    """Add one, durably.

    Raises:
        StorageError: no space, no permission, read-only file system.
    """
    make_private_dir(run_dir.control)
    path = attempts_path(run_dir)
    line = (json.dumps(attempt.to_json(), separators=(",", ":")) + "\n").encode()
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(handle, line)
            os.fsync(handle)
        finally:
            os.close(handle)
        if not size:
            sync_dir(path.parent)


def read(run_dir: RunDir) -> list[Attempt]:
    """All of them in the order they were written; [] where there are none yet."""
    found = []
    for record in read_jsonl(attempts_path(run_dir)):
        with contextlib.suppress(ValueError):
            found.append(Attempt.from_json(record))
    return found
