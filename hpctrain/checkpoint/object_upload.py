"""A stream of bytes as one object, in parts of bounded memory (service over :class:`ObjectFiles`).

While some parts travel, the next one is filled. What is smaller than a part is put in one request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from hpctrain.checkpoint.object_files import ObjectFiles
from hpctrain.checkpoint.object_parts import Parts, start

PART_BYTES = 16 * 1024 * 1024
_STEP = 1000
"""Parts after which they become twice as large: S3 takes 10,000 of them, and an object of 5 TiB must fit."""


class ObjectSink:
    """See :class:`hpctrain.checkpoint.distcp_file.Sink`.

    Args:
        before_finish: called when all parts are there and the object is not yet; what it raises prevents it.
        part_bytes: of the first parts; S3 takes none below 5 MiB but the last.
    """

    def __init__(
        self, files: ObjectFiles, path: str, *, before_finish: Callable[[], None] = lambda: None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._files, self._path, self._before_finish, self._part_bytes = files, path, before_finish, part_bytes
        self._parts: Parts | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._travelling: list[Future[None]] = []
        self._filling = bytearray()
        self._count = self._size_bytes = 0
        self._finished = False

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes. Raises OSError: they, or some before them, cannot be sent."""
        rest = memoryview(data).cast("B")
        self._size_bytes += len(rest)
        while rest:
            room = self._limit() - len(self._filling)
            self._filling += rest[:room]
            rest = rest[room:]
            if len(self._filling) >= self._limit():
                self._ship()

    def finish(self) -> None:
        """Make the object. Raises OSError."""
        if self._parts is None:
            self._before_finish()
            self._files.write(self._path, bytes(self._filling))
        else:
            if self._filling:
                self._ship()
            self._reap(leave=0)
            self._before_finish()
            self._parts.finish(self._size_bytes)
        self._finished = True

    def close(self) -> None:
        """Without :meth:`finish` before it, nothing stays in the store, as far as it can still be asked."""
        for future in self._travelling:
            future.cancel()
        wait(self._travelling)
        if self._pool is not None:
            self._pool.shutdown()
        if self._parts is not None and not self._finished:
            with contextlib.suppress(OSError):  # whoever removes the checkpoint aborts its uploads too
                self._parts.abort()
        self._filling = bytearray()

    def _limit(self) -> int:
        return self._part_bytes << (self._count // _STEP)

    def _ship(self) -> None:
        if self._parts is None or self._pool is None:
            self._parts = start(self._files, self._path)
            self._pool = ThreadPoolExecutor(self._parts.parallel, thread_name_prefix="upload")
        self._reap(leave=self._parts.parallel - 1)
        self._count += 1
        self._travelling.append(self._pool.submit(self._parts.put, self._count, self._filling))
        self._filling = bytearray()

    def _reap(self, *, leave: int) -> None:
        """Wait until no more than ``leave`` parts travel; raise what went wrong with one."""
        while len(self._travelling) > leave:
            done, _ = wait(self._travelling, return_when="FIRST_COMPLETED")
            self._travelling = [future for future in self._travelling if future not in done]
            for future in done:
                future.result()
