"""The journal of what was done about nodes (adapter over one append-only file).

A record is on disk before the act that it announces begins; a torn last line is a record that was never written. One
writer at a time: whoever acts holds the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from hpctrain.errors import StorageError
from hpctrain.files import PRIVATE_FILE, append_jsonl, make_private_dir, read_jsonl, storage_errors, write_atomic
from hpctrain.nodes.record import Entry, from_json, interrupted, to_json

KEEP_S = 30 * 86_400.0
LONGEST_BYTES = 16 * 2**20
_POLL_S = 0.1
_NOT_YOURS = "what is done about nodes is written down there: act as the user that 'hpctrain nodes tend' runs as, often root"


class Journal:
    """The journal in a directory.

    Args:
        directory: made when it is first written to; the hooks' receipts lie beside the journal.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "journal.jsonl"

    def entries(self) -> list[Entry]:
        """All records, oldest first; empty if there are none, or none that may be read."""
        try:
            return [entry for record in read_jsonl(self.path) if (entry := from_json(record)) is not None]
        except OSError:
            return []

    def append(self, entry: Entry) -> None:
        """Add a record and force it to disk. Raises StorageError."""
        make_private_dir(self.directory)
        append_jsonl(self.path, to_json(entry))
        with storage_errors(self.path):
            for path in (self.path, self.directory):
                handle = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)

    @contextlib.contextmanager
    def locked(self, wait_s: float = 10.0) -> Iterator[None]:
        """Be the only one that acts.

        Raises:
            StorageError: another one acts, or the directory cannot be written.
        """
        path = self.directory / "lock"
        try:
            make_private_dir(self.directory)
            with storage_errors(path):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        except StorageError as error:
            if isinstance(error.__cause__, PermissionError):
                error.advice = _NOT_YOURS
            raise
        try:
            _lock(handle, path, wait_s)
            yield
        finally:
            os.close(handle)

    def compact(self, now: float) -> None:
        """Drop what is older than 30 days from a journal that has grown long. Raises StorageError."""
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_size < LONGEST_BYTES:
                return
            entries = self.entries()
            open_ids = {entry.id for entry in interrupted(entries)}
            kept = [entry for entry in entries if now - entry.time < KEEP_S or entry.id in open_ids]
            write_atomic(self.path, "".join(json.dumps(to_json(entry)) + "\n" for entry in kept))


def _lock(handle: int, path: Path, wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > until:
                message = "another 'hpctrain nodes' command is acting on these nodes"
                raise StorageError(message, where=str(path), hint="wait for it, or end it") from None
            time.sleep(_POLL_S)
        else:
            return
