"""Checkpoints on a file system that all ranks see (adapter over the file system).

A :class:`hpctrain.checkpoint.store.Store`. Knows files and their order of writing, nothing of ranks that agree or of policy.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from hpctrain.checkpoint import names, records, trust
from hpctrain.checkpoint.manifest import CommitRecord, FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shard_reader import ShardReader
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.write import write_file, write_share
from hpctrain.errors import StorageError
from hpctrain.files import make_private_dir, storage_errors, sync_dir, write_atomic

_CHUNK_BYTES = 4 * 1024 * 1024


class SharedTier:
    """The directory that holds the checkpoints of one run.

    Args:
        root: it is made, 0700, if it does not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def tier(self) -> str:
        """See :class:`~hpctrain.checkpoint.store.Store`."""
        return "shared"

    @property
    def where(self) -> str:
        """See :class:`~hpctrain.checkpoint.store.Store`."""
        return str(self.root)

    def folder(self, name: CheckpointName) -> Path:
        """Where a checkpoint lies."""
        return self.root / str(name)

    def entries(self) -> list[str]:
        """All names in the directory; empty when there is none."""
        try:
            return sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []

    def claim(self, incarnation: int) -> None:
        """Tell older incarnations that their time is over.

        Raises:
            StorageError: the directory cannot be written, or is another user's.
        """
        self._check_owner()
        make_private_dir(self.root)
        self.sync_way()
        write_atomic(self.root / names.claim_file(incarnation), "")
        for entry in self.entries():
            older = names.parse_claim(entry)
            if older is not None and older < incarnation:
                with contextlib.suppress(OSError):
                    (self.root / entry).unlink()

    def _check_owner(self) -> None:
        """Refuse another user's directory before anything is saved, or changed, there: a restore would refuse it, too."""
        with contextlib.suppress(OSError):
            owner = self.root.stat().st_uid
            if owner not in (os.geteuid(), 0):
                raise StorageError(f"the directory belongs to user id {owner}, not to you", where=str(self.root),
                                   hint="checkpoints are safe only where nobody else can write: use a directory of your own")

    def sync_way(self) -> None:
        """Force to disk that the directory is there, with the parents that were made on the way (those are ours)."""
        with contextlib.suppress(OSError):  # a parent that cannot be opened was not made by us
            for parent in self.root.absolute().parents:
                if parent.stat().st_uid != os.geteuid():
                    return
                sync_dir(parent)

    def checkpoints(self, *, committed: bool) -> list[CheckpointName]:
        """Checkpoints that have a commit record (valid or not), or the directories that have none; oldest first."""
        found = [name for entry in self.entries() if (name := names.parse_name(entry)) is not None]
        return sorted(name for name in found if (self.folder(name) / names.COMMIT).exists() is committed)

    def prepare(self, name: CheckpointName) -> None:
        """Make a directory; what an earlier try has left there stays until it is written anew.

        Raises:
            StorageError: the directory cannot be written, or a complete checkpoint of this name lies there.
        """
        if (self.folder(name) / names.COMMIT).exists():
            raise StorageError("a complete checkpoint of this step is there already", where=str(self.folder(name)))
        make_private_dir(self.folder(name))

    def write_share(
        self, name: CheckpointName, rank: int, tensors: Iterable[tuple[Shard, Any]], own: str, *,
        aliases: Mapping[str, str] | None = None, replicated: str = "",
    ) -> Share:
        """See :func:`hpctrain.checkpoint.write.write_share`."""
        return write_share(self.folder(name), rank, tensors, own, aliases=aliases, replicated=replicated)

    def write_file(self, name: CheckpointName, file: str, data: bytes) -> FileEntry:
        """See :func:`hpctrain.checkpoint.write.write_file`."""
        return write_file(self.folder(name), file, data)

    def read_file(self, name: CheckpointName, file: str) -> bytes | None:
        """A small file, not verified; None when there is none.

        Raises:
            OSError: it cannot be read.
        """
        folder = self.folder(name)
        try:
            # NFS remembers for up to a minute that a name was not there, unless the directory is opened.
            os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            return (folder / file).read_bytes()
        except FileNotFoundError:
            return None

    def remove_file(self, name: CheckpointName, file: str) -> None:
        """Remove a small file if it is there.

        Raises:
            StorageError: it cannot be removed.
        """
        with storage_errors(self.folder(name) / file):
            (self.folder(name) / file).unlink(missing_ok=True)

    def read(self, name: CheckpointName, manifest: Manifest, file: str) -> bytes:
        """A small file of a checkpoint, verified.

        Raises:
            ValueError: it is not the one that was committed.
            OSError: it cannot be read.
        """
        expected = records.entry_in(manifest, file)
        data = (self.folder(name) / file).read_bytes()
        if records.entry_of(file, data) != expected:
            raise ValueError(f"{file} is damaged (its xxh3 hash is not the committed one)")
        return data

    def at(self, name: CheckpointName) -> str:
        """Path of a checkpoint, for messages."""
        return str(self.folder(name))

    def changed(self, name: CheckpointName) -> float | None:
        """When a file of a checkpoint came or went last; None when it cannot be seen."""
        try:
            return self.folder(name).stat().st_mtime
        except OSError:
            return None

    def chunks(self, name: CheckpointName, file: str) -> Iterator[memoryview]:
        """The bytes of a file, not verified, one after the other; each is valid until the next.

        Raises:
            OSError: it cannot be read.
        """
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        with (self.folder(name) / file).open("rb", buffering=0) as source:
            while count := source.readinto(buffer):
                yield buffer[:count]

    def sizes(self, name: CheckpointName) -> dict[str, int]:
        """Names and bytes of the files that are there; empty when there is nothing.

        Raises:
            OSError: the directory cannot be read.
        """
        try:
            with os.scandir(self.folder(name)) as entries:
                return {entry.name: entry.stat(follow_symlinks=False).st_size for entry in entries}
        except FileNotFoundError:
            return {}

    def commit(
        self, name: CheckpointName, manifest: Manifest, *, time: float, reason: str, world: Mapping[str, object]
    ) -> None:
        """Make a checkpoint exist: everything before the commit record is on disk before it is.

        Raises:
            StorageError: it could not be written; the checkpoint does not exist.
        """
        self.commit_texts(name, *records.make_records(name, manifest, time=time, reason=reason, world=world))

    def commit_texts(self, name: CheckpointName, manifest: bytes, record: bytes) -> None:
        """The last two steps, in this order, with what is in ``manifest.json`` and ``commit.json``.

        Raises:
            StorageError: they could not be written; the checkpoint does not exist.
        """
        folder = self.folder(name)
        write_file(folder, names.MANIFEST, manifest)
        with storage_errors(self.root):
            sync_dir(folder)
            sync_dir(self.root)
        write_atomic(folder / names.COMMIT, record)

    def discard(self, name: CheckpointName) -> None:
        """Remove a checkpoint, its commit record first: a half-removed one does not exist.

        Raises:
            StorageError: it could not be removed.
        """
        folder = self.folder(name)
        if not folder.exists():
            return
        with storage_errors(folder):
            try:
                (folder / names.COMMIT).unlink()
                sync_dir(folder)
            except FileNotFoundError:
                # Whoever removed the record may have been killed before that was for good; it must not come back to a
                # directory that has lost files. Where flushing fails too, making room matters more.
                with contextlib.suppress(OSError):
                    sync_dir(folder)
            shutil.rmtree(folder)

    def abandon(self, name: CheckpointName) -> None:
        """Remove the commit record of a checkpoint, for good; the rest stays until it is discarded.

        Raises:
            StorageError: it may still exist.
        """
        folder = self.folder(name)
        with storage_errors(folder):
            (folder / names.COMMIT).unlink(missing_ok=True)
            if folder.exists():
                sync_dir(folder)

    def reader(self, name: CheckpointName) -> ShardReader:
        """Of the raw bytes of its shards."""
        return ShardReader(self.folder(name))

    def open(self, name: CheckpointName) -> tuple[CommitRecord, Manifest]:
        """Read the proof that a checkpoint is complete, and check what can be checked without reading its tensors.

        Raises:
            ValueError: why it must not be used.
            OSError: it cannot be read.
        """
        folder = self.folder(name)
        check_trust(self.root, folder, *folder.iterdir())  # the root too: who may write there can swap whole checkpoints
        commit = records.read_commit((folder / names.COMMIT).read_bytes())
        manifest = records.read_manifest(name, commit, (folder / names.MANIFEST).read_bytes())
        for entry in manifest.files:
            size = (folder / entry.name).stat().st_size
            if size != entry.size_bytes:
                raise ValueError(f"{entry.name} has {size} bytes instead of {entry.size_bytes}")
        return commit, manifest

    def damage(self, name: CheckpointName, files: Iterable[FileEntry]) -> str:
        """Read files and compare their hashes; say what is wrong with the first bad one, "" when all are good."""
        for entry in files:
            try:
                if hash_file(self.folder(name), entry.name) != entry:
                    return f"{entry.name} is damaged (its xxh3 hash is not the committed one)"
            except OSError as error:
                return f"{entry.name} cannot be read: {error.strerror}"
        return ""


def check_trust(*paths: Path) -> None:
    """Make sure that nobody else could have written files or directories.

    Raises:
        ValueError: somebody could; the message says who.
        OSError: they cannot be seen.
    """
    for path in paths:
        status = path.lstat()
        reason = trust.objection(str(path), owner=status.st_uid, mode=status.st_mode, user=os.geteuid())
        if reason:
            raise ValueError(reason)


def hash_file(folder: Path, name: str, on_bytes: Callable[[int], None] | None = None) -> FileEntry:
    """Size and xxh3 of a file.

    Args:
        on_bytes: told of every piece that was read, for a progress bar.

    Raises:
        OSError: it cannot be read.
    """
    digest, size = xxhash.xxh3_128(), 0
    buffer = bytearray(_CHUNK_BYTES)
    with (folder / name).open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            size += count
            if on_bytes is not None:
                on_bytes(count)
    return FileEntry(name, size, digest.hexdigest())
