"""Copies of a checkpoint that are checkpoints themselves (service over two :class:`SharedTier`).

The same order as a save: files, manifest, all flushed, then the commit record. A copy that was cut off does not exist;
started again it keeps the files that are right already. Every byte is compared twice with the hash that was committed: when
it is read, and when the copy is read back from its disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpctrain.checkpoint import names, trust
from hpctrain.checkpoint.catalogue import OnBytes, ignore, open_checked, verify
from hpctrain.checkpoint.manifest import FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.tier_shared import SharedTier, hash_file
from hpctrain.errors import CheckpointError, StorageError
from hpctrain.files import PRIVATE_FILE, make_private_dir, storage_errors

_DRAFT = ".copy-"
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a copy has to do.

    Attributes:
        present: the copy exists already.
        free_bytes: in the file system of the copy.
    """

    name: CheckpointName
    manifest: Manifest
    present: bool
    free_bytes: int


def plan_copy(source: SharedTier, name: CheckpointName, target: SharedTier) -> CopyPlan:
    """Look at both sides; nothing is changed.

    Raises:
        CheckpointError: the checkpoint cannot be used, or another one of this name is at the target.
        StorageError: others can write the target, or it has not enough room.
    """
    opened = open_checked(source, name)
    if isinstance(opened, str):
        raise CheckpointError(f"{name} cannot be copied: {opened}", where=str(source.root))
    commit, manifest = opened
    _check_target(source, target)
    free_bytes = shutil.disk_usage(_nearest(target.root)).free
    if not (target.folder(name) / names.COMMIT).exists():
        if free_bytes < manifest.size_bytes:
            raise StorageError(
                f"{name} needs {manifest.size_bytes:,} bytes, {free_bytes:,} are free", where=str(target.root),
                hint="choose another place, or prune there first",
            )
        return CopyPlan(name, manifest, False, free_bytes)
    there = open_checked(target, name)
    if isinstance(there, str) or there[0].manifest != commit.manifest:
        problem = there if isinstance(there, str) else "it is another one"
        raise CheckpointError(
            f"there is a checkpoint of this name already, and it is not this one: {problem}",
            where=str(target.folder(name)), hint="remove it, or choose another directory",
        )
    return CopyPlan(name, manifest, True, free_bytes)


def copy_checkpoint(source: SharedTier, plan: CopyPlan, target: SharedTier, on_bytes: OnBytes = ignore) -> int:
    """Carry it out; bytes that had to be written. Reports every byte once when it is copied and once when it is compared.

    Raises:
        CheckpointError: the source is damaged, was removed meanwhile, or another copy is at work in this place.
        StorageError: the copy cannot be written, or its disk gives back something else.
    """
    if plan.present:
        verdict = verify(target, plan.name, on_bytes)
        if verdict.problems:
            raise CheckpointError(
                f"the copy that is there is damaged: {verdict.problems[0]}", where=str(target.folder(plan.name)),
                hint="remove it and copy again",
            )
        return 0
    if not target.root.exists():
        make_private_dir(target.root)
    target.sync_way()
    folder = make_private_dir(target.folder(plan.name))
    with _alone(folder):
        return _copy_into(source, plan, target, on_bytes)


def _copy_into(source: SharedTier, plan: CopyPlan, target: SharedTier, on_bytes: OnBytes) -> int:
    folder = target.folder(plan.name)
    wanted = {entry.name for entry in plan.manifest.files}
    for path in list(folder.iterdir()):
        if path.name not in wanted:
            path.unlink()  # drafts of a try that was cut off
    written = 0
    for entry in plan.manifest.files:
        if _is_right(folder, entry):
            on_bytes(2 * entry.size_bytes)
            continue
        _copy_file(source.folder(plan.name), folder, entry, on_bytes)
        written += entry.size_bytes
    with _source_errors(source.folder(plan.name)):
        texts = [(source.folder(plan.name) / file).read_bytes() for file in (names.MANIFEST, names.COMMIT)]
    target.commit_texts(plan.name, *texts)
    return written


def _copy_file(source: Path, folder: Path, entry: FileEntry, on_bytes: OnBytes) -> None:
    draft = folder / f"{_DRAFT}{entry.name}"
    with _source_errors(source), (source / entry.name).open("rb", buffering=0) as reader:
        _write(reader.fileno(), draft, on_bytes)
    if hash_file(folder, draft.name, on_bytes).xxh3_128 != entry.xxh3_128:
        problem = "is damaged" if hash_file(source, entry.name) != entry else "was not read back as it was written"
        draft.unlink()
        raise CheckpointError(f"{entry.name} {problem} (its xxh3 hash is not the committed one)", where=str(source))
    with storage_errors(folder):
        draft.rename(folder / entry.name)


def _write(reader: int, draft: Path, on_bytes: OnBytes) -> None:
    with storage_errors(draft):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            while chunk := os.read(reader, _CHUNK_BYTES):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(handle, view):]
                on_bytes(len(chunk))
            os.fsync(handle)
            # So that reading it back asks the disk, not the memory it was written from.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def _is_right(folder: Path, entry: FileEntry) -> bool:
    """A file that an earlier try left whole; it is flushed again, because that try may have ended before it was."""
    try:
        if (folder / entry.name).stat().st_size != entry.size_bytes or hash_file(folder, entry.name) != entry:
            return False
        handle = os.open(folder / entry.name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with storage_errors(folder / entry.name):
            os.fsync(handle)
    finally:
        os.close(handle)
    return True


def _check_target(source: SharedTier, target: SharedTier) -> None:
    if target.root.resolve() == source.root.resolve():
        raise CheckpointError("source and target are the same directory", where=str(target.root))
    if target.root.is_symlink() or not target.root.exists():
        return
    if not target.root.is_dir():
        raise StorageError("it is not a directory", where=str(target.root))
    status = target.root.stat()
    objection = trust.objection(str(target.root), owner=status.st_uid, mode=status.st_mode, user=os.geteuid())
    if objection:
        raise StorageError(
            f"{objection}: a checkpoint there would never be restored", where="DEST", hint="name a directory of your own",
        )


def _nearest(path: Path) -> Path:
    return next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())


@contextlib.contextmanager
def _source_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError("it was removed while it was being copied", where=str(folder)) from error


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One copy at a time in one place, as far as the file system knows locks; a killed one's lock is gone with it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError("another copy is being made here", where=str(folder)) from None
        except OSError:  # a file system without locks: O_EXCL still keeps two copies out of one file
            pass
        yield
    finally:
        os.close(handle)
