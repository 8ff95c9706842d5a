"""Copies of a checkpoint that are checkpoints themselves (service over two :class:`Store`).

The same order as a save: files, manifest, all flushed, then the commit record. A copy that was cut off does not exist;
started again it keeps the files that are right already. Every byte is compared with the hash that was committed when it is
read, and once more when the copy is read back from its disk. An object store is not read back, which would cost: it compares
checksums of what it receives itself, and says the size and the tag of what it keeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import xxhash

from hpctrain.checkpoint import names, trust
from hpctrain.checkpoint.catalogue import OnBytes, ignore, open_checked, read_entry, verify
from hpctrain.checkpoint.manifest import FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.tier_object import ObjectTier
from hpctrain.checkpoint.tier_shared import SharedTier, hash_file
from hpctrain.errors import CheckpointError, StorageError
from hpctrain.files import PRIVATE_FILE, make_private_dir, storage_errors

_DRAFT = ".copy-"

Target = SharedTier | ObjectTier
"""What a copy can be made in."""


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What a copy has to do.

    Attributes:
        present: the copy exists already.
        free_bytes: in the file system of the copy; None where nobody knows.
    """

    name: CheckpointName
    manifest: Manifest
    present: bool
    free_bytes: int | None


def plan_copy(source: Store, name: CheckpointName, target: Target) -> CopyPlan:
    """Look at both sides; nothing is changed.

    Raises:
        CheckpointError: the checkpoint cannot be used, or another one of this name is at the target.
        StorageError: others can write the target, or it has not enough room.
    """
    opened = open_checked(source, name)
    if isinstance(opened, str):
        raise CheckpointError(f"{name} cannot be copied: {opened}", where=source.where)
    commit, manifest = opened
    _check_target(source, target)
    free_bytes = shutil.disk_usage(_nearest(target.root)).free if isinstance(target, SharedTier) else None
    if not _is_committed(target, name):
        if free_bytes is not None and free_bytes < manifest.size_bytes:
            raise StorageError(
                f"{name} needs {manifest.size_bytes:,} bytes, {free_bytes:,} are free", where=target.where,
                hint="choose another place, or prune there first",
            )
        return CopyPlan(name, manifest, False, free_bytes)
    there = open_checked(target, name)
    if isinstance(there, str) or there[0].manifest != commit.manifest:
        problem = there if isinstance(there, str) else "it is another one"
        raise CheckpointError(
            f"there is a checkpoint of this name already, and it is not this one: {problem}",
            where=target.at(name), hint="remove it, or choose another place",
        )
    return CopyPlan(name, manifest, True, free_bytes)


def copy_checkpoint(source: Store, plan: CopyPlan, target: Target, on_bytes: OnBytes = ignore) -> int:
    """Carry it out; bytes that had to be written. Reports every byte once when it is copied and once when it is compared.

    Raises:
        CheckpointError: the source is damaged, was removed meanwhile, or another copy is at work in this place.
        StorageError: the copy cannot be written, or its disk gives back something else.
    """
    if plan.present:
        verdict = verify(target, plan.name, on_bytes)
        if verdict.problems:
            raise CheckpointError(
                f"the copy that is there is damaged: {verdict.problems[0]}", where=target.at(plan.name),
                hint="remove it and copy again",
            )
        return 0
    if isinstance(target, SharedTier):
        return _copy_to_files(source, plan, target, on_bytes)
    return _copy_to_objects(source, plan, target, on_bytes)


def _copy_to_files(source: Store, plan: CopyPlan, target: SharedTier, on_bytes: OnBytes) -> int:
    if not target.root.exists():
        make_private_dir(target.root)
    target.sync_way()
    folder = make_private_dir(target.folder(plan.name))
    with _alone(folder):
        return _copy_into(source, plan, target, on_bytes)


def _copy_into(source: Store, plan: CopyPlan, target: SharedTier, on_bytes: OnBytes) -> int:
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
        _copy_file(source, plan.name, folder, entry, on_bytes)
        written += entry.size_bytes
    target.commit_texts(plan.name, *_records(source, plan.name))
    return written


def _copy_to_objects(source: Store, plan: CopyPlan, target: ObjectTier, on_bytes: OnBytes) -> int:
    target.prepare(plan.name)
    there, written = target.sizes(plan.name), 0
    for entry in plan.manifest.files:
        if there.get(entry.name) == entry.size_bytes and read_entry(target, plan.name, entry.name, on_bytes) == entry:
            on_bytes(entry.size_bytes)  # a try that was cut off had come that far
            continue
        _send_file(source, plan.name, target, entry, on_bytes)
        written += entry.size_bytes
    target.commit_texts(plan.name, *_records(source, plan.name))
    return written


def _send_file(source: Store, name: CheckpointName, target: ObjectTier, entry: FileEntry, on_bytes: OnBytes) -> None:
    digest, sink = xxhash.xxh3_128(), target.sink(name, entry.name)
    try:
        for chunk in _read(source, name, entry.name):
            digest.update(chunk)
            with storage_errors(target.at(name)):
                sink.send(chunk)
            on_bytes(2 * len(chunk))
        if digest.hexdigest() != entry.xxh3_128:
            raise _damaged(source, name, entry)
        with storage_errors(target.at(name)):
            sink.finish()
    finally:
        sink.close()


def _read(source: Store, name: CheckpointName, file: str) -> Iterator[memoryview]:
    """A file's bytes; an error of reading is not one of writing."""
    try:
        yield from source.chunks(name, file)
    except FileNotFoundError as error:
        raise CheckpointError("it was removed while it was being copied", where=source.at(name)) from error
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", where=source.at(name)) from error


def _records(source: Store, name: CheckpointName) -> list[bytes]:
    texts = [source.read_file(name, file) for file in (names.MANIFEST, names.COMMIT)]
    if None in texts:
        raise CheckpointError("it was removed while it was being copied", where=source.at(name))
    return [text for text in texts if text is not None]


def _damaged(source: Store, name: CheckpointName, entry: FileEntry) -> CheckpointError:
    return CheckpointError(f"{entry.name} is damaged (its xxh3 hash is not the committed one)", where=source.at(name))


def _is_committed(store: Store, name: CheckpointName) -> bool:
    return store.read_file(name, names.COMMIT) is not None


def _copy_file(source: Store, name: CheckpointName, folder: Path, entry: FileEntry, on_bytes: OnBytes) -> None:
    draft, digest = folder / f"{_DRAFT}{entry.name}", xxhash.xxh3_128()
    with storage_errors(draft):
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        for chunk in _read(source, name, entry.name):
            digest.update(chunk)
            with storage_errors(draft):
                _write(handle, chunk)
            on_bytes(len(chunk))
        with storage_errors(draft):
            os.fsync(handle)
            # So that reading it back asks the disk, not the memory it was written from.
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
    if digest.hexdigest() != entry.xxh3_128:
        draft.unlink()
        raise _damaged(source, name, entry)
    if hash_file(folder, draft.name, on_bytes).xxh3_128 != entry.xxh3_128:
        draft.unlink()
        raise CheckpointError(f"{entry.name} was not read back as it was written", where=str(folder))
    with storage_errors(folder):
        draft.rename(folder / entry.name)


def _write(handle: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(handle, chunk):]


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


def _check_target(source: Store, target: Store) -> None:
    same = target.where == source.where
    if isinstance(target, SharedTier) and isinstance(source, SharedTier):
        same = target.root.resolve() == source.root.resolve()
    if same:
        raise CheckpointError("source and target are the same place", where=target.where)
    if not isinstance(target, SharedTier):
        return
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
