"""One rank's part of a durable checkpoint, as it is told to whoever commits (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from hpctrain.checkpoint.manifest import FileEntry
from hpctrain.checkpoint.shards import StoredShard


@dataclass(frozen=True, slots=True)
class Share:
    """What one rank has written.

    Attributes:
        replicated: stands for names, types and shapes of the tensors that all ranks must hold alike.
    """

    rank: int
    files: tuple[FileEntry, ...]
    shards: tuple[StoredShard, ...]
    replicated: str
