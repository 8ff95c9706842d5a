"""Files and folders that several processes may make at once, and that a killed one must not leave (adapter over files).

Each process makes its own draft and gives it its name when it is whole. A lock file beside the draft is held while its
process lives, on whatever node: a draft whose lock is free was left by a process that was killed, and the next one to make
anything in that folder removes it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from hpctrain.files import PRIVATE_FILE, storage_errors

_DRAFT, _LOCK = ".draft-", ".lock"


@contextlib.contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """A path beside ``target`` that only this process uses; nothing is there yet, and nothing is left there afterwards.

    Raises:
        StorageError: the folder cannot be written.
    """
    remove_abandoned(target.parent)
    lock, handle = _lock(target.parent)
    draft = lock.with_name(lock.name.removesuffix(_LOCK))
    try:
        yield draft
    finally:
        _remove(draft)
        lock.unlink(missing_ok=True)
        os.close(handle)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove the drafts in a folder whose processes are gone; return them. Nothing here is worth failing for."""
    removed = []
    with contextlib.suppress(OSError):
        for lock in sorted(folder.glob(f"{_DRAFT}*{_LOCK}")):
            with contextlib.suppress(OSError):
                handle = os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    draft = lock.with_name(lock.name.removesuffix(_LOCK))
                    _remove(draft)
                    lock.unlink(missing_ok=True)
                    removed.append(draft)
                finally:
                    os.close(handle)
    return removed


def put_in_place(draft: Path, target: Path) -> bool:
    """Give a folder its name, unless another process has made the same meanwhile; whether this one was taken.

    Raises:
        OSError: the file system refuses.
    """
    try:
        draft.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        return False
    return True


def _lock(folder: Path) -> tuple[Path, int]:
    while True:
        # Not the process id: several nodes may each have a process of that number.
        path = folder / f"{_DRAFT}{secrets.token_hex(8)}{_LOCK}"
        with storage_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        with contextlib.suppress(OSError):  # a file system without locks: then nobody takes ours for abandoned either
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(handle).st_ino:
                return path, handle
        os.close(handle)  # somebody cleaned up between the two lines above


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
