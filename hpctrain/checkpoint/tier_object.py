"""Checkpoints in an object store (service over :class:`ObjectFiles`).

The protocol is the one of the shared tier (docs/checkpoint-format.md); :class:`hpctrain.checkpoint.store.Store` says what
each method promises. What differs: an object appears whole or not at all, so nothing needs a temporary name; there are no
folders to make or to flush; and the commit record is written only where there is none, by a conditional request, so that
of two writers of one name one alone can commit.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hpctrain.checkpoint import names, records
from hpctrain.checkpoint.distcp_file import write_distcp_to
from hpctrain.checkpoint.manifest import CommitRecord, FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.object_files import Found, ObjectFiles
from hpctrain.checkpoint.object_patience import Limits
from hpctrain.checkpoint.object_reader import ObjectReader
from hpctrain.checkpoint.object_upload import PART_BYTES, ObjectSink
from hpctrain.checkpoint.shards import Shard, with_aliases
from hpctrain.checkpoint.share import Share
from hpctrain.errors import StorageError
from hpctrain.files import storage_errors

_CHUNK_BYTES = 8 * 1024 * 1024


class ObjectTier:
    """The checkpoints below a URL.

    Args:
        url: such as ``s3://bucket/prefix``, without credentials.

    Raises:
        UsageError: the URL cannot be used.
        MissingDependencyError: the package for it is not installed.
    """

    def __init__(self, url: str, *, limits: Limits | None = None, part_bytes: int = PART_BYTES) -> None:
        self._files, self._part_bytes = ObjectFiles(url, limits), part_bytes

    @property
    def tier(self) -> str:
        """Which tier this is, for events and tables."""
        return "object"

    @property
    def where(self) -> str:
        """The URL, for messages."""
        return self._files.where

    def at(self, name: CheckpointName) -> str:
        """The URL of a checkpoint."""
        return self._files.full_url(str(name))

    # ---------------------------------------------------------------- what there is

    def entries(self) -> list[str]:
        """Names at the top: checkpoints and claims; empty when nothing is there yet. Raises OSError."""
        return self._files.names()

    def checkpoints(self, *, committed: bool) -> list[CheckpointName]:
        """Checkpoints that have a commit record (valid or not), or those that have none; oldest first. Raises OSError."""
        found = [name for entry in self.entries() if (name := names.parse_name(entry)) is not None]
        return sorted(name for name in found if self._is_committed(name) is committed)

    def files(self, name: CheckpointName) -> dict[str, Found]:
        """Size and time of everything that lies there under a checkpoint's name. Raises OSError."""
        return self._files.listing(str(name))

    def sizes(self, name: CheckpointName) -> dict[str, int]:
        """Names and bytes of the files that are there; empty when there is nothing. Raises OSError."""
        return {file: found.size_bytes for file, found in self.files(name).items()}

    def changed(self, name: CheckpointName) -> float | None:
        """When something was last written there, in seconds since the epoch; None when nobody knows. Raises OSError."""
        return max((found.time for found in self.files(name).values() if found.time is not None), default=None)

    def open(self, name: CheckpointName) -> tuple[CommitRecord, Manifest]:
        """Read the proof that a checkpoint is complete, and check what can be checked without reading its tensors.

        Raises:
            ValueError: why it must not be used.
            OSError: it cannot be read.
        """
        commit = records.read_commit(self._must_read(name, names.COMMIT))
        manifest = records.read_manifest(name, commit, self._must_read(name, names.MANIFEST))
        records.check_sizes(manifest, self.sizes(name))
        return commit, manifest

    def read(self, name: CheckpointName, manifest: Manifest, file: str) -> bytes:
        """A small file that the manifest names, verified. Raises ValueError or OSError."""
        expected = records.entry_in(manifest, file)
        data = self._must_read(name, file)
        if records.entry_of(file, data) != expected:
            raise ValueError(f"{file} is damaged (its xxh3 hash is not the committed one)")
        return data

    def read_file(self, name: CheckpointName, file: str) -> bytes | None:
        """A small file, not verified; None when there is none. Raises OSError."""
        return self._files.read(f"{name}/{file}")

    def chunks(self, name: CheckpointName, file: str) -> Iterator[memoryview]:
        """The bytes of a file, one after the other; each is valid until the next. Raises OSError."""
        path = f"{name}/{file}"
        size = self._files.size_bytes(path)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, "it is not there", self._files.full_url(path))
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, size)))
        for start in range(0, size, _CHUNK_BYTES):
            chunk = buffer[:min(_CHUNK_BYTES, size - start)]
            self._files.read_into(path, start, chunk)
            yield chunk

    def reader(self, name: CheckpointName) -> ObjectReader:
        """Of the raw bytes of its shards."""
        return ObjectReader(self._files, str(name))

    # ---------------------------------------------------------------- one writer at a time

    def claim(self, incarnation: int) -> None:
        """Tell older incarnations that their time is over, and abort the uploads they left. Raises StorageError."""
        with storage_errors(self.where):
            self._files.write(names.claim_file(incarnation), b"")
        with contextlib.suppress(OSError):  # what is not tidied up now does no harm
            for entry in self.entries():
                older = names.parse_claim(entry)
                if older is not None and older < incarnation:
                    self._files.remove(entry)
            for path, upload_id in self._files.unfinished():
                owner = names.parse_name(path.partition("/")[0])
                if owner is not None and owner.incarnation < incarnation:
                    self._files.abort(path, upload_id)

    # ---------------------------------------------------------------- a save

    def prepare(self, name: CheckpointName) -> None:
        """Make sure that the name is free; objects need no folder.

        Raises:
            StorageError: there is a commit record already, or the store cannot be asked.
        """
        with storage_errors(self.at(name)):
            self._must_be_free(name)

    def write_share(
        self, name: CheckpointName, rank: int, tensors: Iterable[tuple[Shard, Any]], own: str, *,
        aliases: Mapping[str, str] | None = None, replicated: str = "",
    ) -> Share:
        """Write a rank's tensors and the rest of its state, in place of what an earlier try has left.

        Raises:
            OSError, StorageError: it cannot be written.
            ValueError: a tensor cannot be stored.
        """
        file = names.tensor_file(rank)
        written = write_distcp_to(self.sink(name, file), file, tensors)
        files = (written.file, self.write_file(name, names.rank_file(rank), own.encode()))
        return Share(rank, files, tuple(with_aliases(written.shards, aliases or {})), replicated)

    def sink(self, name: CheckpointName, file: str) -> ObjectSink:
        """A new file of a checkpoint, to be sent piece by piece; it is there once the sink is finished.

        It never takes the place of a file of a committed checkpoint, however late it comes.
        """
        return ObjectSink(self._files, f"{name}/{file}", before_finish=lambda: self._must_be_free(name),
                          part_bytes=self._part_bytes)

    def write_file(self, name: CheckpointName, file: str, data: bytes) -> FileEntry:
        """Write a small file whole, in place of what is there. Raises StorageError."""
        with storage_errors(self._files.full_url(f"{name}/{file}")):
            self._files.write(f"{name}/{file}", data)
        return records.entry_of(file, data)

    def remove_file(self, name: CheckpointName, file: str) -> None:
        """Remove a small file if it is there. Raises StorageError."""
        with storage_errors(self._files.full_url(f"{name}/{file}")):
            self._files.remove(f"{name}/{file}")

    def commit(
        self, name: CheckpointName, manifest: Manifest, *, time: float, reason: str, world: Mapping[str, object]
    ) -> None:
        """Make a checkpoint exist. Raises StorageError: it does not."""
        self.commit_texts(name, *records.make_records(name, manifest, time=time, reason=reason, world=world))

    def commit_texts(self, name: CheckpointName, manifest: bytes, record: bytes) -> None:
        """The last two steps, in this order, with what is in ``manifest.json`` and ``commit.json``.

        Raises:
            StorageError: they could not be written, or another writer has committed this name.
        """
        with storage_errors(self.at(name)):
            self._must_be_free(name, unless=record)
            self._files.write(f"{name}/{names.MANIFEST}", manifest)
            if not self._files.create(f"{name}/{names.COMMIT}", record):
                raise _taken(self.at(name))

    # ---------------------------------------------------------------- removing

    def discard(self, name: CheckpointName) -> None:
        """Remove a checkpoint, its commit record first, and uploads into it. Raises StorageError."""
        self.abandon(name)
        with storage_errors(self.at(name)):
            self._files.remove_folder(str(name))

    def abandon(self, name: CheckpointName) -> None:
        """Make a checkpoint that exists exist no more; its files may stay. Raises StorageError: it may still exist."""
        self.remove_file(name, names.COMMIT)

    # ----------------------------------------------------------------

    def _is_committed(self, name: CheckpointName) -> bool:
        return self._files.exists(f"{name}/{names.COMMIT}")

    def _must_be_free(self, name: CheckpointName, unless: bytes = b"") -> None:
        if self._is_committed(name) and (not unless or self.read_file(name, names.COMMIT) != unless):
            raise _taken(self.at(name))

    def _must_read(self, name: CheckpointName, file: str) -> bytes:
        data = self.read_file(name, file)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "it is not there", self._files.full_url(f"{name}/{file}"))
        return data


def _taken(where: str) -> StorageError:
    return StorageError("a complete checkpoint of this step is there already", where=where)
