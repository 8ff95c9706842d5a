"""Reads raw bytes of stored shards from an object store and verifies them (service over :class:`ObjectFiles`)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import xxhash

from hpctrain.checkpoint.object_files import ObjectFiles
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import StoredShard

RANGE_BYTES = 16 * 1024 * 1024
"""Read by one request; a large shard is several, at the same time."""
_PARALLEL = 4
_TRIES = 3
"""Bytes that arrive wrong are asked for again: they may have been spoilt on their way."""


class ObjectReader:
    """The tensors' objects of one checkpoint. Several threads may read at once.

    Args:
        folder: of the checkpoint, relative to the URL of ``files``.
    """

    def __init__(self, files: ObjectFiles, folder: str) -> None:
        self._files, self._folder = files, folder
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Fill ``target`` (of ``stored.size_bytes``) with a shard's bytes.

        Raises:
            DamagedError: the object is too short, cannot be read, or the bytes are not those that were committed.
        """
        for _ in range(_TRIES):
            try:
                self._fetch(stored, target)
            except OSError as error:
                raise DamagedError(f"{stored.file} cannot be read: {error.strerror or error}") from error
            if xxhash.xxh3_128_hexdigest(target[:stored.size_bytes]) == stored.xxh3:
                return
        raise DamagedError(f"{stored.file} is damaged: {stored.shard.name} has not the xxh3 hash that was committed")

    def close(self) -> None:
        """Let the threads go."""
        with self._lock:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _fetch(self, stored: StoredShard, target: memoryview) -> None:
        path = f"{self._folder}/{stored.file}"
        whole = target[:stored.size_bytes]
        pieces = [(stored.offset_bytes + start, whole[start:start + RANGE_BYTES])
                  for start in range(0, stored.size_bytes, RANGE_BYTES)]
        if len(pieces) == 1:
            self._files.read_into(path, *pieces[0])
        elif pieces:
            pool = self._threads()
            for future in [pool.submit(self._files.read_into, path, *piece) for piece in pieces]:
                future.result()

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_PARALLEL, thread_name_prefix="download")
            return self._pool
