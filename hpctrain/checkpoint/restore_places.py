"""The places that one rank reads a checkpoint from, opened when they are needed (service).

Whatever is asked here is given a time in which it must answer: the other ranks wait.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import xxhash

from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName, rank_file
from hpctrain.checkpoint.parts import Part, PartTier
from hpctrain.checkpoint.restore_sources import Origin, key_of, part_digest
from hpctrain.checkpoint.restore_threads import Limits, bounded
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import Extent, StoredShard, with_aliases
from hpctrain.checkpoint.store import Reader, Store

Key = tuple[str, Extent]


class OpenPart:
    """A part that was opened.

    Attributes:
        shards: with tied tensors under each of their names.
        own_state: JSON of what is not a tensor.
    """

    def __init__(self, part: Part) -> None:
        self.part = part
        self.shards = with_aliases(part.shards, dict(part.share.get("aliases", {})))
        self.own_state = part.own_state
        self.replicated = str(part.share.get("replicated", ""))
        self.world, self.reason, self.world_size = dict(part.world), part.reason, part.world_size

    @property
    def digest(self) -> str:
        """Identity; see :func:`hpctrain.checkpoint.restore_sources.part_digest`."""
        return part_digest(self.shards, xxhash.xxh3_128_hexdigest(self.own_state.encode()))


class Places:
    """What this rank can read of one checkpoint; close it in the end.

    Args:
        tiers: of this rank's node, by name.
        stores: by number.
    """

    def __init__(
        self, name: CheckpointName, tiers: Mapping[str, PartTier], stores: Sequence[Store], limits: Limits
    ) -> None:
        self._name, self._tiers, self._stores, self._limits = name, tiers, stores, limits
        self._parts: dict[int | Origin, OpenPart] = {}
        self._readers: dict[Origin, Reader] = {}
        self._tables: dict[Origin, dict[Key, StoredShard]] = {}
        self._manifests: dict[int, Manifest] = {}

    def open(self, origin: Origin) -> OpenPart:
        """A part on this node.

        Raises:
            Exception: whatever keeps it from being read.
        """
        if origin not in self._parts:
            part = bounded(lambda: self._tiers[origin.tier].open(self._name, origin.part), self._limits.open_s, str(origin))
            self._parts[origin] = OpenPart(part)
        return self._parts[origin]

    def use(self, manifests: Mapping[int, Manifest]) -> None:
        """The stores that hold the checkpoint."""
        self._manifests = dict(manifests)

    def prepare(self, origin: Origin) -> None:
        """Make ready for :meth:`read`, which threads may call.

        Raises:
            Exception: see :meth:`open`.
        """
        if origin in self._readers:
            return
        if origin.store >= 0:
            shards: Sequence[StoredShard] = self._manifests[origin.store].shards
            reader: Reader = bounded(lambda: self._stores[origin.store].reader(self._name), self._limits.open_s, str(origin))
        else:
            opened = self.open(origin)
            shards, reader = opened.shards, opened.part
        self._tables[origin] = {key_of(stored): stored for stored in shards}
        self._readers[origin] = reader

    def read(self, origin: Origin, stored: StoredShard, target: memoryview) -> None:
        """Fill ``target`` with verified bytes. Raises DamagedError, or anything else that goes wrong there."""
        there = self._tables[origin].get(key_of(stored))
        if there is None or there.size_bytes != len(target) or there.xxh3 != stored.xxh3:
            raise DamagedError(f"{stored.shard.name} is not in it as it was saved")
        self._readers[origin].read_into(there, target)

    def own_state(self, rank: int) -> str:
        """A rank's JSON, verified, from the first store that can give it.

        Raises:
            ValueError, OSError: none can.
        """
        errors = []
        for index, manifest in self._manifests.items():
            store = self._stores[index]
            try:
                data = bounded(
                    lambda store=store, manifest=manifest: store.read(self._name, manifest, rank_file(rank)),  # type: ignore[misc]
                    self._limits.open_s, store.tier)
                return str(data.decode())
            except (ValueError, OSError) as error:
                errors.append(f"{store.tier}: {error}" if len(self._manifests) > 1 else str(error))
        raise ValueError("; ".join(errors) or f"the state of rank {rank} is nowhere")

    def close(self) -> None:
        """Let all of it be reused."""
        for origin, reader in self._readers.items():
            if origin.store >= 0:
                with contextlib.suppress(Exception):
                    reader.close()
        for opened in self._parts.values():
            with contextlib.suppress(Exception):  # whoever is gone has let go already
                opened.part.close()
        self._parts.clear()
        self._readers.clear()
        self._tables.clear()
