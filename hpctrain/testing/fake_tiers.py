"""Checkpoint tiers in this process's memory, which a test breaks as it likes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain.checkpoint import names
from hpctrain.checkpoint.arena_memory import hash_range
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.manifest import CommitRecord, FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import Shard, StoredShard, with_aliases
from hpctrain.checkpoint.share import Share
from hpctrain.errors import StorageError


@dataclass
class FakePart:
    """One rank's share; a :class:`hpctrain.checkpoint.parts.Part`. Its attributes may be changed to damage it.

    Attributes:
        data: bytes of all tensors.
        reads: what was asked for, by tensor.
    """

    data: bytearray
    shards: Sequence[StoredShard]
    own_state: str = "{}"
    world_size: int = 1
    share: Mapping[str, Any] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    reason: str = "a test wanted it"
    reads: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, tensors: Iterable[tuple[Shard, memoryview]], **more: Any) -> FakePart:
        """A part with these boxes."""
        data, shards = bytearray(), []
        for shard, view in tensors:
            shards.append(StoredShard(shard, "memory", len(data), shard.nbytes, hash_range(view).hex()))
            data += view
        return cls(data, shards, **more)

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Copy, and compare the hash."""
        self.reads.append(stored.shard.name)
        target[:] = self.data[stored.offset_bytes:stored.offset_bytes + stored.size_bytes]
        if hash_range(target).hex() != stored.xxh3:
            raise DamagedError(f"{stored.shard.name} has not the xxh3 hash that was committed")

    def close(self) -> None:
        """Nothing is held."""

    def copied(self) -> FakePart:
        """Another one with the same content: what a peer has."""
        return copy.deepcopy(self)

    def damage(self, stored: StoredShard) -> None:
        """Flip a bit of a box."""
        self.data[stored.offset_bytes] ^= 1


class FakePartTier:
    """A :class:`hpctrain.checkpoint.parts.PartTier`.

    Attributes:
        parts: by checkpoint and rank.
        gone: every request fails, as when the keeper has died.
        hangs: while set, no request comes to an end.
    """

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.parts: dict[CheckpointName, dict[int, FakePart]] = {}
        self.gone, self.unlisted_but_gone = False, False
        self.hangs = threading.Event()
        self.dropped: list[CheckpointName] = []

    def put(self, name: CheckpointName, rank: int, part: FakePart) -> None:
        """Hold a part."""
        self.parts.setdefault(name, {})[rank] = part

    def holdings(self) -> Mapping[CheckpointName, Mapping[int, int]]:
        """What is here."""
        self._wait()
        if self.gone:
            return {}
        return {name: {rank: part.world_size for rank, part in parts.items()} for name, parts in self.parts.items()}

    def open(self, name: CheckpointName, rank: int) -> FakePart:
        """Open a part."""
        self._wait()
        if self.gone or self.unlisted_but_gone:
            raise WireError("there is no keeper")
        try:
            return self.parts[name][rank]
        except KeyError:
            raise RefusedError(f"{name} of rank {rank} is not here") from None

    def drop(self, name: CheckpointName) -> None:
        """Forget a checkpoint."""
        self.parts.pop(name, None)
        self.dropped.append(name)

    def _wait(self) -> None:
        while self.hangs.is_set():
            threading.Event().wait(0.01)


class FakeStore:
    """A :class:`hpctrain.checkpoint.store.Store`.

    Attributes:
        files: by checkpoint and name.
        committed: commit record and manifest of what exists.
        broken: files that cannot be read, by name.
        reads: bytes of tensors that were read.
    """

    def __init__(self, tier: str = "shared") -> None:
        self.tier, self.where = tier, f"memory:{tier}"
        self.files: dict[CheckpointName, dict[str, bytearray]] = {}
        self.committed: dict[CheckpointName, tuple[CommitRecord, Manifest]] = {}
        self.claims: set[int] = set()
        self.broken: set[str] = set()
        self.hangs = threading.Event()
        self.error: OSError | None = None
        self.reads = 0

    def entries(self) -> list[str]:
        """Names at the top."""
        return sorted([str(name) for name in self.files] + [names.claim_file(claim) for claim in self.claims])

    def claim(self, incarnation: int) -> None:
        """Tell older incarnations that their time is over."""
        self.claims.add(incarnation)

    def checkpoints(self, *, committed: bool) -> list[CheckpointName]:
        """Checkpoints, oldest first."""
        self._wait()
        return sorted(name for name in self.files if (name in self.committed) is committed)

    def prepare(self, name: CheckpointName) -> None:
        """Make room."""
        if name in self.committed:
            raise StorageError("it is there already", where=self.where)
        self.files.setdefault(name, {})

    def write_share(
        self, name: CheckpointName, rank: int, tensors: Iterable[tuple[Shard, Any]], own: str, *,
        aliases: Mapping[str, str] | None = None, replicated: str = "",
    ) -> Share:
        """Keep a rank's tensors and the rest of its state."""
        part = FakePart.of(tensors)
        file = names.tensor_file(rank)
        entries = (self.write_file(name, file, bytes(part.data)),
                   self.write_file(name, names.rank_file(rank), own.encode()))
        shards = [StoredShard(one.shard, file, one.offset_bytes, one.size_bytes, one.xxh3) for one in part.shards]
        return Share(rank, entries, tuple(with_aliases(shards, aliases or {})), replicated)

    def write_file(self, name: CheckpointName, file: str, data: bytes) -> FileEntry:
        """Keep a file."""
        self.files[name][file] = bytearray(data)
        return _entry(file, data)

    def read_file(self, name: CheckpointName, file: str) -> bytes | None:
        """A small file, not verified."""
        self._wait()
        data = self.files.get(name, {}).get(file)
        return None if data is None else bytes(data)

    def remove_file(self, name: CheckpointName, file: str) -> None:
        """Remove a small file."""
        self.files[name].pop(file, None)

    def sizes(self, name: CheckpointName) -> Mapping[str, int]:
        """Names and bytes of the files that are there."""
        return {file: len(data) for file, data in self.files.get(name, {}).items()}

    def commit(
        self, name: CheckpointName, manifest: Manifest, *, time: float, reason: str, world: Mapping[str, object]
    ) -> None:
        """Make a checkpoint exist."""
        entry = _entry(names.MANIFEST, manifest.to_bytes())
        record = CommitRecord(name.step, name.incarnation, time, reason, entry, manifest.size_bytes, world)
        self.committed[name] = (record, manifest)

    def discard(self, name: CheckpointName) -> None:
        """Remove a checkpoint."""
        self.committed.pop(name, None)
        self.files.pop(name, None)

    def abandon(self, name: CheckpointName) -> None:
        """Make a checkpoint exist no more."""
        self._wait()
        self.committed.pop(name, None)

    def open(self, name: CheckpointName) -> tuple[CommitRecord, Manifest]:
        """Read the proof that a checkpoint is complete."""
        self._wait()
        if names.MANIFEST in self.broken or name not in self.committed:
            raise ValueError(f"{names.MANIFEST} is not the one that was committed")
        return self.committed[name]

    def read(self, name: CheckpointName, manifest: Manifest, file: str) -> bytes:
        """A small file, verified."""
        self._wait()
        data = bytes(self.files[name][file])
        if _entry(file, data) not in manifest.files:
            raise ValueError(f"{file} is damaged")
        return data

    def reader(self, name: CheckpointName) -> FakeReader:
        """Of the raw bytes of its shards."""
        return FakeReader(self, name)

    def _wait(self) -> None:
        while self.hangs.is_set():
            threading.Event().wait(0.01)
        if self.error is not None:
            raise self.error


class FakeReader:
    """A :class:`hpctrain.checkpoint.store.Reader`."""

    def __init__(self, store: FakeStore, name: CheckpointName) -> None:
        self._store, self._name = store, name

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Copy, and compare the hash."""
        while self._store.hangs.is_set():
            threading.Event().wait(0.01)
        if stored.file in self._store.broken:
            raise DamagedError(f"{stored.file} cannot be read: Input/output error")
        data = self._store.files[self._name][stored.file][stored.offset_bytes:stored.offset_bytes + stored.size_bytes]
        if len(data) < stored.size_bytes or hash_range(memoryview(data)).hex() != stored.xxh3:
            raise DamagedError(f"{stored.file} is damaged: {stored.shard.name} has not the xxh3 hash that was committed")
        target[:] = data
        self._store.reads += stored.size_bytes

    def close(self) -> None:
        """Nothing is held."""


def _entry(file: str, data: bytes) -> FileEntry:
    return FileEntry(file, len(data), hash_range(memoryview(data)).hex())
