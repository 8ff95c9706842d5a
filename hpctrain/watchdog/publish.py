"""Puts a job's status into the site's spool, for a watchdog of the whole cluster (adapter, standard library only)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.files import storage_errors

_PUBLISHED = ("time", "beat", "host", "restarts", "incarnation", "state", "exit_code", "job")
"""What others may see: no address, no port, no process id."""


def publish(directory: Path, job_id: int, record: Mapping[str, Any]) -> None:
    """Replace ``job-<id>.json`` in one step; for coordinators, every few seconds.

    Raises:
        StorageError: it cannot be written; training goes on without.
    """
    path = directory / f"job-{job_id}.json"
    draft = directory / f".job-{job_id}.{os.getpid()}.new"
    text = json.dumps({key: record[key] for key in _PUBLISHED if key in record}, separators=(",", ":"))
    with storage_errors(path):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(handle, 0o644)
            os.write(handle, text.encode())
        finally:
            os.close(handle)
        draft.replace(path)
