"""Reads raw bytes of stored shards and verifies them on the way (adapter over the file system).

Needs neither torch nor a pickle: a file's name, an offset and a length come from the manifest.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import xxhash

from hpctrain.checkpoint.shards import StoredShard

_CHUNK_BYTES = 1024 * 1024
_OPEN_FILES = 32


class DamagedError(Exception):
    """Stored bytes are not those that were committed; the message names file and tensor."""


class ShardReader:
    """The tensors' files of one checkpoint. Several threads may read at once.

    Args:
        folder: of the checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._lock = threading.Lock()

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Fill ``target`` (of ``stored.size_bytes``) with a shard's bytes.

        Raises:
            DamagedError: the file is too short, cannot be read, or the bytes are not those that were committed.
        """
        digest, offset = xxhash.xxh3_128(), 0
        try:
            file = self._open(stored.file)
            while offset < stored.size_bytes:
                chunk = target[offset:offset + _CHUNK_BYTES]
                count = os.preadv(file.fileno(), [chunk], stored.offset_bytes + offset)
                if not count:
                    raise DamagedError(f"{stored.file} is damaged: it ends inside {stored.shard.name}")
                digest.update(chunk[:count])
                offset += count
        except OSError as error:
            raise DamagedError(f"{stored.file} cannot be read: {error.strerror}") from error
        if digest.hexdigest() != stored.xxh3:
            raise DamagedError(f"{stored.file} is damaged: {stored.shard.name} has not the xxh3 hash that was committed")

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            self._files.clear()

    def _open(self, name: str) -> Any:
        with self._lock:
            file = self._files.pop(name, None)
            if file is None:
                # The folder's files were checked to be plain ones of ours; a link that came later is not followed.
                handle = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                file = os.fdopen(handle, "rb", buffering=0)
            while len(self._files) >= _OPEN_FILES:
                self._files.pop(next(iter(self._files)))  # closed when the last thread that reads it is done
            self._files[name] = file
            return file
