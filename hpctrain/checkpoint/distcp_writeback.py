"""Asks the kernel to begin with the writing of a file before it is told to finish (adapter over ``sync_file_range``).

Written bytes lie in the page cache until somebody flushes them, and the disk has nothing to do until then. Begun early, most
of the writing is over when the flush comes. ``O_DIRECT`` took a quarter less time still, and a third of the processor's; but
the pages stay in the cache this way, so that a restart on the same node reads them several times faster (and all ranks wait
for that, while none waits for a writer), and network file systems are not slowed down.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

STEP_BYTES = 32 * 1024 * 1024
"""Begun with at a time: large enough for a disk to be fast, and a small part of what is in a file."""

Begin = Callable[[int, int, int], None]
"""Told of a descriptor, and of a range by start and length."""

_WRITE = 2
"""``SYNC_FILE_RANGE_WRITE``: begin; wait for nothing."""


class WriteBack:
    """How far the writing of one file has been begun with; of use for large files only.

    It is a hint: where it cannot be followed nothing is lost, and errors in writing are told by the flush.

    Args:
        step_bytes: begun with at a time.
        begin: what asks the kernel; None: :func:`begin_writing`.
    """

    def __init__(self, handle: int, step_bytes: int = STEP_BYTES, begin: Begin | None = None) -> None:
        self._handle, self._step_bytes, self._begin = handle, step_bytes, begin or begin_writing
        self._written_bytes = self._begun_bytes = 0

    def wrote(self, size_bytes: int) -> None:
        """So many bytes more were written, at the end."""
        self._written_bytes += size_bytes
        waiting_bytes = self._written_bytes - self._begun_bytes
        if waiting_bytes >= self._step_bytes:
            self._begin(self._handle, self._begun_bytes, waiting_bytes)
            self._begun_bytes = self._written_bytes


def begin_writing(handle: int, start: int, size_bytes: int) -> None:
    """Begin with the writing of a range of a file, and wait for nothing."""
    library = _library()
    if library is not None:
        library.sync_file_range(handle, start, size_bytes, _WRITE)


@cache
def _library() -> ctypes.CDLL | None:
    library = ctypes.CDLL(None)
    if not hasattr(library, "sync_file_range"):
        return None
    # The interpreter lock is free during the call, as with every function of a CDLL.
    library.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return library
