"""What a tier of whole checkpoints can do: a shared file system, or an object store (pure).

The commit protocol (docs/checkpoint-format.md) is written once, against this.
:class:`hpctrain.checkpoint.tier_shared.SharedTier` and :class:`hpctrain.checkpoint.tier_object.ObjectTier` implement it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from hpctrain.checkpoint.manifest import CommitRecord, FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import Shard, StoredShard
from hpctrain.checkpoint.share import Share


class Reader(Protocol):
    """Where the bytes of stored shards come from. Several threads may read at once."""

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Fill ``target``, of ``stored.size_bytes``, with verified bytes.

        Raises:
            DamagedError: the bytes cannot be had, or are not those that were committed.
        """

    def close(self) -> None:
        """Let go of what is open."""


class Store(Protocol):
    """A tier that holds whole checkpoints, each in a folder of its own, told apart by :class:`CheckpointName`."""

    @property
    def tier(self) -> str:
        """``shared`` or ``object``."""

    @property
    def where(self) -> str:
        """Path or URL, for messages."""

    def entries(self) -> list[str]:
        """Names at the top: checkpoints and claims; empty when nothing is there yet. Raises OSError."""

    def claim(self, incarnation: int) -> None:
        """Tell older incarnations that their time is over. Raises StorageError."""

    def checkpoints(self, *, committed: bool) -> list[CheckpointName]:
        """Checkpoints with a commit record (valid or not), or the folders that have none; oldest first. Raises OSError."""

    def prepare(self, name: CheckpointName) -> None:
        """Make room for a checkpoint; what is there of the same name and has no commit record may stay or go.

        Several writers may call it for the same name at the same time, and one late, when others have written already: it
        never removes what they wrote.

        Raises:
            StorageError: there is a commit record already, or it cannot be written.
        """

    def write_share(
        self, name: CheckpointName, rank: int, tensors: Iterable[tuple[Shard, Any]], own: str, *,
        aliases: Mapping[str, str] | None = None, replicated: str = "",
    ) -> Share:
        """Write a rank's tensors and the rest of its state, durably, in place of what an earlier try has left.

        Raises:
            OSError, StorageError: it cannot be written.
            ValueError: a tensor cannot be stored.
        """

    def write_file(self, name: CheckpointName, file: str, data: bytes) -> FileEntry:
        """Write a small file whole and durably, in place of what is there. Raises StorageError."""

    def read_file(self, name: CheckpointName, file: str) -> bytes | None:
        """A small file, not verified; None when there is none. Raises OSError."""

    def remove_file(self, name: CheckpointName, file: str) -> None:
        """Remove a small file if it is there. Raises StorageError."""

    def sizes(self, name: CheckpointName) -> Mapping[str, int]:
        """Names and bytes of the files that are there, commit record or not; empty when there is nothing. Raises OSError."""

    def changed(self, name: CheckpointName) -> float | None:
        """When something was last written there, in seconds since the epoch; None when nobody knows. Raises OSError."""

    def chunks(self, name: CheckpointName, file: str) -> Iterator[memoryview]:
        """The bytes of a file, not verified, one after the other; each is valid until the next. Raises OSError."""

    def at(self, name: CheckpointName) -> str:
        """Path or URL of a checkpoint, for messages."""

    def commit(
        self, name: CheckpointName, manifest: Manifest, *, time: float, reason: str, world: Mapping[str, object]
    ) -> None:
        """Make a checkpoint exist. Raises StorageError: it does not."""

    def discard(self, name: CheckpointName) -> None:
        """Remove a checkpoint, its commit record first. Raises StorageError."""

    def abandon(self, name: CheckpointName) -> None:
        """Make a checkpoint that exists exist no more, atomically; its files may stay until it is discarded.

        Raises:
            StorageError: it may still exist.
        """

    def open(self, name: CheckpointName) -> tuple[CommitRecord, Manifest]:
        """Read the proof that a checkpoint is complete.

        Raises:
            ValueError: why it must not be used.
            OSError: it cannot be read.
        """

    def read(self, name: CheckpointName, manifest: Manifest, file: str) -> bytes:
        """A small file that the manifest names, verified. Raises ValueError or OSError."""

    def reader(self, name: CheckpointName) -> Reader:
        """Of the raw bytes of its shards."""
