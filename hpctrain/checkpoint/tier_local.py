"""Parts of checkpoints on a disk of the node's own (adapter over the file system).

Every rank of the node has a part of its own in a step's directory: the same files as in a shared tier, and
``part-<rank>.json``, which is written last, stands for them, and makes the part exist. It needs no other rank: what is whole
is decided by whoever restores, from what all nodes have. docs/checkpoint-format.md is the specification.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.checkpoint import names
from hpctrain.checkpoint.commit import fenced
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.records import entry_of
from hpctrain.checkpoint.shard_reader import ShardReader
from hpctrain.checkpoint.shards import Shard, StoredShard
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.share_text import seal, share_of, share_record, unseal
from hpctrain.checkpoint.tier_shared import SharedTier, check_trust
from hpctrain.checkpoint.write import write_file, write_share
from hpctrain.files import make_private_dir, storage_errors, sync_dir

_SPARE = 1
"""Kept besides ``keep_last``: the newest may not be there on all nodes yet."""


class LocalPart:
    """One rank's part, opened and verified but for its tensors; a :class:`hpctrain.checkpoint.parts.Part`.

    Raises:
        ValueError: it is damaged, or somebody else could have written it.
        OSError: it cannot be read.
        RefusedError: it is not here.
    """

    def __init__(self, root: Path, name: CheckpointName, rank: int) -> None:
        folder = root / str(name)
        if not (folder / names.part_file(rank)).exists():
            raise RefusedError(f"{folder} has no part of rank {rank}")
        self._record = read_record(folder, name, rank)
        stored = share_of(rank, self._record)
        check_trust(root, folder, folder / names.part_file(rank), *(folder / entry.name for entry in stored.files))
        self.shards: Sequence[StoredShard] = stored.shards
        self.own_state = self._own_state(folder, stored)
        _check_sizes(folder, stored)
        self._reader = ShardReader(folder)

    @property
    def world_size(self) -> int:
        """Number of ranks that saved together."""
        return int(self._record["world_size"])

    @property
    def share(self) -> Mapping[str, Any]:
        """``aliases`` and ``replicated``."""
        return {"aliases": dict(self._record["aliases"]), "replicated": str(self._record["replicated"])}

    @property
    def world(self) -> Mapping[str, Any]:
        """Layout of the ranks that saved."""
        return dict(self._record["world"])

    @property
    def reason(self) -> str:
        """Why it was saved."""
        return str(self._record["reason"])

    @property
    def time(self) -> float:
        """When it was written, seconds since the epoch."""
        return float(self._record["time"])

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Fill ``target`` with a shard's bytes, verified on the way. Raises DamagedError."""
        self._reader.read_into(stored, target)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()

    def _own_state(self, folder: Path, stored: Share) -> str:
        rank_file = names.rank_file(stored.rank)
        data = (folder / rank_file).read_bytes()
        if entry_of(rank_file, data) not in stored.files:
            raise ValueError(f"{rank_file} is damaged (its xxh3 hash is not the one in {names.part_file(stored.rank)})")
        return data.decode()


class LocalTier:
    """The parts on this node's disk; a :class:`hpctrain.checkpoint.parts.PartTier`.

    Args:
        root: of this run and this node; it is made, 0700, when it is first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._claims = SharedTier(root)

    @property
    def tier(self) -> str:
        """Its name in messages and orders."""
        return "local"

    def folder(self, name: CheckpointName) -> Path:
        """Where the parts of a checkpoint lie."""
        return self.root / str(name)

    def holdings(self) -> dict[CheckpointName, dict[int, int]]:
        """For each checkpoint, the ranks whose part is here and looks complete, each with the size of its world."""
        found: dict[CheckpointName, dict[int, int]] = {}
        for name in self._steps():
            for rank in self._ranks(name):
                with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                    record = read_record(self.folder(name), name, rank)
                    _check_sizes(self.folder(name), share_of(rank, record))
                    found.setdefault(name, {})[rank] = int(record["world_size"])
        return found

    def open(self, name: CheckpointName, rank: int) -> LocalPart:
        """See :class:`LocalPart`."""
        return LocalPart(self.root, name, rank)

    def drop(self, name: CheckpointName) -> None:
        """Forget every part of a checkpoint, as far as that is possible."""
        with contextlib.suppress(OSError):
            self._remove(name)

    # --- writing, by the writer process ---------------------------------------------------------------------------

    def claim(self, incarnation: int) -> None:
        """Tell older incarnations that their time is over.

        Raises:
            FencedError: a newer one has said so before.
            OSError, StorageError: the disk cannot be read or written.
        """
        entries = self._claims.entries()
        newest = names.newest_incarnation(entries)
        if newest > incarnation:
            raise fenced(incarnation, newest, str(self.root))
        if names.claim_file(incarnation) not in entries:
            self._claims.claim(incarnation)

    def write(
        self, name: CheckpointName, rank: int, tensors: Iterable[tuple[Shard, Any]], own: str, *, replicated: str = "",
    ) -> Share:
        """Write a part, durably, in place of what an earlier try has left; it does not exist before :meth:`commit`.

        Raises:
            OSError, StorageError: it cannot be written.
            ValueError: a tensor cannot be stored.
        """
        folder = make_private_dir(self.folder(name))
        with storage_errors(folder):
            (folder / names.part_file(rank)).unlink(missing_ok=True)
            sync_dir(folder)  # what it speaks of is about to change
        return write_share(folder, rank, tensors, own, replicated=replicated)

    def commit(
        self, name: CheckpointName, share: Share, *, aliases: Mapping[str, str], world_size: int, world: Mapping[str, Any],
        reason: str, time: float,
    ) -> None:
        """Make a part exist.

        Args:
            time: seconds since the epoch.

        Raises:
            FencedError: a newer incarnation is at work.
            OSError, StorageError: it cannot be written.
        """
        self.claim(name.incarnation)
        record = {"step": name.step, "incarnation": name.incarnation, "rank": share.rank, "world_size": world_size,
                  "world": dict(world), "reason": reason, "time": time, "aliases": dict(aliases), **share_record(share)}
        with storage_errors(self.root):
            sync_dir(self.root)  # the directory, before something in it is promised
        write_file(self.folder(name), names.part_file(share.rank), seal(record))

    def discard(self, name: CheckpointName, rank: int) -> None:
        """Remove a rank's part, if that is possible."""
        folder = self.folder(name)
        with contextlib.suppress(OSError):
            (folder / names.part_file(rank)).unlink(missing_ok=True)
            sync_dir(folder)
            files = (names.tensor_file(rank), names.rank_file(rank))
            for entry in os.listdir(folder):
                if entry in files or any(entry.startswith(f".{file}.") for file in files):
                    (folder / entry).unlink(missing_ok=True)
            folder.rmdir()

    def prune(self, keep_last: int, keep: Collection[CheckpointName] = ()) -> None:
        """Remove all but the newest, and one more: this node may be the first to have the newest one.

        Args:
            keep: checkpoints that stay in any case.
        """
        with contextlib.suppress(OSError):
            steps = self._steps()
            stay = [name for name in steps if self._ranks(name)][-(keep_last + _SPARE):]
            for name in steps:
                if stay and name < stay[-1] and name not in stay and name not in keep:
                    self.drop(name)

    def _steps(self) -> list[CheckpointName]:
        """Oldest first; nothing when the disk is out of order."""
        with contextlib.suppress(OSError):
            return sorted(name for entry in self._claims.entries() if (name := names.parse_name(entry)) is not None)
        return []

    def _ranks(self, name: CheckpointName) -> list[int]:
        with contextlib.suppress(OSError):
            return sorted(rank for entry in os.listdir(self.folder(name)) if (rank := names.parse_part(entry)) is not None)
        return []

    def _remove(self, name: CheckpointName) -> None:
        folder = self.folder(name)
        for rank in self._ranks(name):
            (folder / names.part_file(rank)).unlink(missing_ok=True)
        sync_dir(folder)
        shutil.rmtree(folder)


def read_record(folder: Path, name: CheckpointName, rank: int) -> dict[str, Any]:
    """What makes a part exist.

    Raises:
        ValueError: it is damaged, or of something else.
        OSError: it cannot be read.
    """
    file = names.part_file(rank)
    try:
        record = unseal((folder / file).read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is {error}") from None
    if (record.get("step"), record.get("incarnation"), record.get("rank")) != (name.step, name.incarnation, rank):
        raise ValueError(f"{file} is of another checkpoint")
    return record


def _check_sizes(folder: Path, stored: Share) -> None:
    for entry in stored.files:
        size = (folder / entry.name).stat().st_size
        if size != entry.size_bytes:
            raise ValueError(f"{entry.name} has {size} bytes instead of {entry.size_bytes}")
