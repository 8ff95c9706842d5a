"""Answers that are kept on disk, so that no question is asked twice (adapter over append-only JSON lines).

A folder holds one file per writer, read by all: no lock, which a shared file system may not have, and no file per answer,
which would use up inodes. A line that a killed writer left half is skipped, and its question is asked again.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.endpoint.wire import Message
from hpctrain.errors import StorageError
from hpctrain.files import append_jsonl, make_private_dir, read_jsonl
from hpctrain.recipe.schema_method import Endpoint


def question_key(endpoint: Endpoint, messages: Sequence[Message]) -> str:
    """The content hash of all that an answer depends on: SHA-256 over model, place, limits and conversation."""
    conversation = [dict(message) for message in messages]
    content = [endpoint.url, endpoint.model, endpoint.temperature, endpoint.max_new_tokens, conversation]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Kept:
    """Records by key; what other writers of the folder had kept when this was made is known, too.

    Args:
        folder: made where it is missing; None keeps nothing on disk.
        writer: name of this writer's file, unlike any other's.
        durable: each record is on disk before :meth:`put` returns, and one that cannot be written is an error. Otherwise a
            full disk costs only the keeping.
    """

    def __init__(self, folder: Path | None, writer: str, *, durable: bool = False) -> None:
        self._durable, self._lock = durable, threading.Lock()
        self._records: dict[str, dict[str, Any]] = {}
        self._file: Path | None = None
        self.problem = ""
        """Why nothing is kept on disk any more, "" while it is."""
        if folder is not None:
            self._open(folder, writer)

    def _open(self, folder: Path, writer: str) -> None:
        try:
            make_private_dir(folder)
        except StorageError as error:
            self._give_up(error)
            return
        for file in sorted(folder.glob("*.jsonl")):
            for record in read_jsonl(file):
                key = record.pop("key", None)
                if isinstance(key, str):
                    self._records[key] = record
        self._file = folder / f"{writer}.jsonl"

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a key, None where there is none."""
        return self._records.get(key)

    def put(self, key: str, record: Mapping[str, Any]) -> None:
        """Keep a record.

        Raises:
            StorageError: it cannot be written, and ``durable`` was asked for.
        """
        with self._lock:
            self._records[key] = dict(record)
            if self._file is None:
                return
            try:
                append_jsonl(self._file, {"key": key, **record}, durable=self._durable)
            except StorageError as error:
                self._give_up(error)

    def _give_up(self, error: StorageError) -> None:
        if self._durable:
            raise error
        self._file, self.problem = None, str(error)
