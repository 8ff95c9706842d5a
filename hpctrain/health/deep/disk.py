"""A file written, forced to disk, read back and compared (adapter over the file system)."""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
from pathlib import Path

from hpctrain.health.deep.bench import Bench, Reading, corrupt, measured

_CHUNK_BYTES = 4 * 2**20
_STAMP_BYTES = 8


def run_local(bench: Bench) -> list[Reading]:
    """On the node's own disk."""
    return _run(bench, "disk", bench.local_dir)


def run_shared(bench: Bench) -> list[Reading]:
    """On the file system that the run's directory is on."""
    return _run(bench, "shared", bench.shared_dir)


def _run(bench: Bench, check: str, directory: str) -> list[Reading]:
    """Every chunk has its number in front, so that one chunk read for another is noticed; the file is always removed."""
    handle, name = tempfile.mkstemp(prefix="hpctrain-deep-", dir=directory)
    block = random.Random(7).randbytes(_CHUNK_BYTES - _STAMP_BYTES)  # noqa: S311 - data that does not compress, no secret
    chunks = max(1, bench.sizes.file_bytes // _CHUNK_BYTES)
    total = chunks * _CHUNK_BYTES
    try:
        writing = bench.seconds(lambda: _write(handle, block, chunks))
        _drop_from_cache(handle)
        spoil = check in bench.pretended.corrupt
        reading, wrong = bench.timed(lambda: _read(handle, block, chunks, spoil=spoil))
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):
            Path(name).unlink()
    if wrong:
        return [corrupt(f"{check}.write", wrong), corrupt(f"{check}.read", wrong)]
    told = f"{total} bytes in {directory}, verified"
    return [measured(f"{check}.write", total / writing / 1e6, told), measured(f"{check}.read", total / reading / 1e6, told)]


def _write(handle: int, block: bytes, chunks: int) -> None:
    for number in range(chunks):
        data = memoryview(number.to_bytes(_STAMP_BYTES, "little") + block)
        while data:
            data = data[os.write(handle, data) :]
    os.fsync(handle)


def _drop_from_cache(handle: int) -> None:
    """Only a request: on tmpfs, and on some network file systems, the read then comes from memory all the same."""
    with contextlib.suppress(OSError):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)


def _read(handle: int, block: bytes, chunks: int, *, spoil: bool) -> str:
    """What is wrong with the file, "" for nothing."""
    os.lseek(handle, 0, os.SEEK_SET)
    for number in range(chunks):
        data = bytearray()
        while len(data) < _CHUNK_BYTES:
            part = os.read(handle, _CHUNK_BYTES - len(data))
            if not part:
                return f"the file ends after {number * _CHUNK_BYTES + len(data)} of {chunks * _CHUNK_BYTES} bytes"
            data += part
        if spoil:
            data[_CHUNK_BYTES // 2] ^= 1
        if data[:_STAMP_BYTES] != number.to_bytes(_STAMP_BYTES, "little") or data[_STAMP_BYTES:] != block:
            return f"chunk {number + 1} of {chunks} ({_CHUNK_BYTES} bytes each) is not what was written"
    return ""
