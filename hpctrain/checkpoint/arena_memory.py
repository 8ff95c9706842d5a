"""Blocks of memory without a name, kept alive by whoever holds their descriptor (adapter over ``memfd`` and ``mmap``).

A block's size is sealed and its pages are allocated when it is made: touching it later can neither fail nor be slow.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import xxhash

from hpctrain.checkpoint import arena
from hpctrain.checkpoint.arena import DIGEST_BYTES, Header, Layout, Meta

ALLOCATION_STEP_BYTES = 256 * 1024 * 1024
_HASH_CHUNK_BYTES = 16 * 1024 * 1024
_MADV_POPULATE_WRITE = 23


class BlockError(Exception):
    """A block cannot be made here; the message says why."""


def make_block(
    size_bytes: int, objection: Callable[[int], str] = lambda _: "", *, step_bytes: int = ALLOCATION_STEP_BYTES
) -> int:
    """A new block; returns its descriptor.

    The kernel does not refuse memory that is not there: it kills a process to find some. So what is left is asked for
    before every step, not only before the first.

    Args:
        objection: why so many more bytes must not be taken now; "" when they may be.
        step_bytes: taken at a time.

    Raises:
        BlockError: this system has no memfd, or not enough memory.
    """
    if not hasattr(os, "memfd_create"):
        raise BlockError("this system has no memfd_create (Linux 3.17 and newer have it)")
    try:
        handle = os.memfd_create("hpctrain-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise BlockError(f"memfd_create: {error.strerror}") from error
    try:
        for start in range(0, size_bytes, step_bytes):
            reason = objection(size_bytes - start)
            if reason:
                raise BlockError(reason)
            os.posix_fallocate(handle, start, min(step_bytes, size_bytes - start))
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except BlockError:
        os.close(handle)
        raise
    except OSError as error:
        os.close(handle)
        what = "not enough memory" if error.errno in (errno.ENOSPC, errno.ENOMEM) else error.strerror
        raise BlockError(f"{size_bytes} bytes cannot be allocated: {what}") from error
    return handle


def read_only(handle: int) -> int:
    """Another descriptor of the block, through which it cannot be written.

    Raises:
        OSError: ``/proc`` is not there.
    """
    return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC)


def map_block(handle: int, *, writable: bool) -> mmap.mmap:
    """Map all of a block. Children that are forked later do not inherit a writable mapping.

    Args:
        writable: what is written goes into the block; else it would stay in this process (torch wants writable memory
            even to look at it).

    Raises:
        OSError: it cannot be mapped.
    """
    flags = mmap.MAP_SHARED if writable else mmap.MAP_PRIVATE
    mapping = mmap.mmap(handle, os.fstat(handle).st_size, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    if writable:
        with suppress(OSError, AttributeError):
            mapping.madvise(mmap.MADV_DONTFORK)
    return mapping


def touch(mapping: mmap.mmap, start: int, end: int) -> None:
    """Map the pages of a range now, in one go, instead of one by one when they are written: that takes half the time.

    Args:
        start: a multiple of the page size.
    """
    with suppress(OSError):  # Linux 5.14 and newer; the others take their time
        mapping.madvise(_MADV_POPULATE_WRITE, start, end - start)


def clear_header(handle: int) -> None:
    """From now on the block holds no checkpoint."""
    os.pwrite(handle, bytes(arena.HEADER_BYTES), 0)


def write_header(handle: int, header: Header) -> None:
    """From now on the block holds this checkpoint."""
    os.pwrite(handle, header.to_bytes(), 0)


def read_header(handle: int) -> Header:
    """What the block holds.

    Raises:
        ValueError: nothing complete.
    """
    return Header.from_bytes(os.pread(handle, arena.HEADER_BYTES, 0))


def read_meta(handle: int, header: Header) -> tuple[Meta, Layout]:
    """What the shards are and where they lie, verified.

    Raises:
        ValueError: it is damaged.
    """
    text = os.pread(handle, header.meta_bytes, arena.HEADER_BYTES)
    if xxhash.xxh3_128_digest(text) != header.meta_xxh3:
        raise ValueError("the description of the shards is damaged (its xxh3 hash is not the committed one)")
    meta = Meta.from_bytes(text)
    return meta, arena.check(header, meta, os.fstat(handle).st_size)


def hash_range(view: memoryview) -> bytes:
    """XXH3 of memory, in chunks: the interpreter lock is free meanwhile."""
    digest = xxhash.xxh3_128()
    for start in range(0, len(view), _HASH_CHUNK_BYTES):
        digest.update(view[start:start + _HASH_CHUNK_BYTES])
    return digest.digest()


def read_seal(handle: int, header: Header) -> list[bytes]:
    """The hash of each shard, verified.

    Raises:
        ValueError: the shards have not been hashed, or the hashes are damaged.
    """
    if not header.is_sealed:
        raise ValueError("the shards have not been hashed")
    text = os.pread(handle, DIGEST_BYTES * header.shard_count, header.seal_offset)
    if xxhash.xxh3_128_digest(text) != header.seal_xxh3:
        raise ValueError("the list of hashes is damaged")
    return [text[start:start + DIGEST_BYTES] for start in range(0, len(text), DIGEST_BYTES)]


def write_seal(handle: int, header: Header, digests: Sequence[bytes]) -> Header:
    """Store the hashes of the shards; returns the header that names them, for :func:`write_header`."""
    text = b"".join(digests)
    os.pwrite(handle, text, header.seal_offset)
    return replace(header, seal_xxh3=xxhash.xxh3_128_digest(text))
