"""Files copied to a node's own disk before they are trained on (adapter over the file system).

The ranks of a node need not talk to one another: each takes the lock of the node's directory, the first one copies, the
others find what is there. Every copy is read back and compared by xxh3 with what was read from the source. A start in place
finds the copies of the last one and only compares them again.

The directory's name begins as those of the agents do, and every rank holds its lock while it lives: whoever finds such a
directory of this user that nobody holds may remove it. The next agent does, and so does Slurm's epilog.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from hpctrain.data.identity import stamp as stamp_of
from hpctrain.errors import NotFoundError, StorageError
from hpctrain.files import make_private_dir, storage_errors, write_json_atomic
from hpctrain.recipe.units import format_bytes

_BLOCK = 1 << 22
_POLL_S = 0.2
_LOCK, _TURN = "lock", "turn"
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Staged:
    """Copies on this node's disk.

    Attributes:
        paths: one per source, in their order.
        copied_bytes: that this rank has copied; 0 where another one did, or an earlier start.
        seconds: that it took, waiting included.
    """

    paths: tuple[Path, ...]
    copied_bytes: int
    seconds: float


def node_dir(copy_to: str | None, job: str, node: str) -> Path:
    """The directory of a job on this node; nodes of a private cluster share a host, so their name is part of it.

    Args:
        copy_to: from the recipe; None means the temporary directory.
        job: Slurm's number of the job, or the run's name where there is none.
    """
    return Path(copy_to or tempfile.gettempdir()) / f"hpctrain-{os.getuid()}-{job}-{node}-data"


def stage(sources: Sequence[Path], folder: Path, tell: Tell, *, root: Path | None = None) -> Staged:
    """Copy files to this node's disk, or wait until another rank of the node has.

    Args:
        folder: from :func:`node_dir`; it is held until this process ends.
        root: a directory above all sources, whose structure the copies keep; None numbers them.
        tell: told now and then how far it is.

    Raises:
        StorageError: the disk is full or not writable, or gives back something else than was written.
        NotFoundError: a source is not there.
    """
    started = time.monotonic()
    remove_abandoned(folder.parent, keep=folder)
    _hold(folder)
    copied = 0
    paths = []
    with _turn(folder, tell):
        _require_room(sources, folder)
        for number, source in enumerate(sources):
            target = folder / (f"{number:05d}-{source.name}" if root is None else source.relative_to(root))
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copied += _bring(source, target, tell)
            paths.append(target)
    return Staged(tuple(paths), copied, time.monotonic() - started)


def release() -> None:
    """Give up what this process holds; the last rank of a node to do so removes the copies."""
    for folder, handle in _held.items():
        os.close(handle)
        with contextlib.suppress(OSError):
            if _abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)
    _held.clear()


def remove_abandoned(base: Path, *, keep: Path | None = None) -> list[Path]:
    """Remove this user's directories of copies whose job is gone; return them. Nothing here is worth failing for."""
    removed = []
    with contextlib.suppress(OSError):
        for path in sorted(base.glob(f"hpctrain-{os.getuid()}-*-data")):
            with contextlib.suppress(OSError):
                if path != keep and _abandoned(path):
                    shutil.rmtree(path, ignore_errors=True)
                    removed.append(path)
    return removed


_held: dict[Path, int] = {}
"""Directories that this process uses, and the descriptors that say so."""


def _hold(folder: Path) -> None:
    """Make the directory and share its lock, also where a cleaner removes it at the same moment."""
    while folder not in _held:
        with storage_errors(folder):
            make_private_dir(folder)
            if folder.lstat().st_uid != os.getuid():
                hint = "set data.copy_to to a directory of your own"
                raise StorageError("belongs to somebody else", where=str(folder), hint=hint)
            try:
                handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue
            fcntl.flock(handle, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if (folder / _LOCK).stat().st_ino == os.fstat(handle).st_ino:
                    _held[folder] = handle
                    return
            os.close(handle)


def _abandoned(path: Path) -> bool:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        return False
    handle = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


@contextlib.contextmanager
def _turn(folder: Path, tell: Tell) -> Iterator[None]:
    """One rank of the node at a time; the others say that they wait."""
    with storage_errors(folder):
        handle = os.open(folder / _TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                tell("another rank of this node copies the data")
                time.sleep(_POLL_S)
        yield
    finally:
        os.close(handle)


def _require_room(sources: Sequence[Path], folder: Path) -> None:
    needed = sum(_size(source) for source in sources)
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed - there > free:
        raise StorageError(
            f"the data takes {format_bytes(needed)}, and this node's disk has {format_bytes(free)} free", where=str(folder),
            hint="set data.copy_to to a larger disk, or take data.mode shared or stream",
        )


def _bring(source: Path, target: Path, tell: Tell) -> int:
    """Have a good copy of one file; return the bytes that had to be copied for it."""
    note = target.with_name(f"{target.name}.json")
    stamp: list[Any] = stamp_of(source)
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(note.read_bytes())
        if known["stamp"] == stamp and _digest(target, tell) == known["xxh3_128"]:
            return 0
    with storage_errors(target):
        note.unlink(missing_ok=True)
        digest = _copy(source, target, tell)
        if _digest(target, tell) != digest:
            raise StorageError("this node's disk gives back something else than was written to it", where=str(target),
                               hint="have the node looked at: 'hpctrain health deep --help'; or take data.mode shared")
    if stamp_of(source) != stamp:
        raise StorageError("changed while it was copied", where=str(source), hint="start again when nothing writes to it")
    write_json_atomic(note, {"stamp": stamp, "xxh3_128": digest}, durable=False)
    return int(stamp[1])


def _copy(source: Path, target: Path, tell: Tell) -> str:
    digest, done, size = xxhash.xxh3_128(), 0, _size(source)
    draft = target.with_name(f"{target.name}.partial")
    try:
        with source.open("rb") as reader, draft.open("wb") as writer:
            while block := reader.read(_BLOCK):
                writer.write(block)
                digest.update(block)
                done += len(block)
                tell(f"{format_bytes(done)} of {format_bytes(size)} of {source.name} copied to this node")
            writer.flush()
            # What is read back should come from the disk; a page that is still to be written cannot be dropped.
            os.fdatasync(writer.fileno())
            os.posix_fadvise(writer.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
    return digest.hexdigest()


def _digest(path: Path, tell: Tell) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            tell(f"comparing {path.name}")
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise NotFoundError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
