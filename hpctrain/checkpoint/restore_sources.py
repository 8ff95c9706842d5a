"""Where the parts of a checkpoint are, which of them fit together, and what is missing (pure).

Nothing here looks anywhere: rank 0 hands in what all ranks have seen.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName, rank_file
from hpctrain.checkpoint.shards import StoredShard

_COST = {"ram": 0, "peer": 0, "local": 1, "shared": 2, "object": 3}
_ORDER = {"ram": 0, "peer": 1, "local": 2, "shared": 3, "object": 4}
_TENSOR_FILE = re.compile(r"^__(\d+)_0\.distcp$")
ALL_PARTS = -1


@dataclass(frozen=True, slots=True)
class Origin:
    """One place that holds one part, or (a store) all parts.

    Attributes:
        tier: ``ram``, ``peer`` ...
        node: whose tier it is; "" for a store.
        part: rank that saved it; :data:`ALL_PARTS` for a store.
        store: which of the stores; -1 for a part of a node.
    """

    tier: str
    node: str
    part: int
    store: int = -1

    @property
    def cost(self) -> int:
        """Memory of any node comes before disks, and disks of nodes before what all share."""
        return _COST.get(self.tier, 9)

    @property
    def order(self) -> tuple[int, str, int]:
        """Which one to take where two are equally good."""
        return _ORDER.get(self.tier, 9), self.node, self.store

    def __str__(self) -> str:
        return f"{self.tier} of node {self.node}" if self.node else self.tier


@dataclass(frozen=True, slots=True)
class Sight:
    """What one rank sees on its node: for each tier, the checkpoints, their parts, and the size of the world."""

    node: str
    held: Mapping[str, Mapping[CheckpointName, Mapping[int, int]]]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that somebody holds something of.

    Attributes:
        world_size: ranks that saved it; 0 when only a store can tell.
        origins: parts on nodes, and the ranks that can read each.
        stores: which stores list it.
    """

    name: CheckpointName
    world_size: int
    origins: Mapping[Origin, tuple[int, ...]] = field(default_factory=dict)
    stores: tuple[int, ...] = ()

    @property
    def lacking(self) -> str:
        """Which parts are on no node; "" when all are."""
        return nowhere(self.world_size, {origin.part for origin in self.origins})

    @property
    def is_committed(self) -> bool:
        """A store lists it, so it was whole once: when it cannot be restored now, somebody may be able to mend that."""
        return bool(self.stores)

    def opener(self, origin: Origin) -> int:
        """The rank that reads what is said of a part: its own one if that sees it."""
        ranks = self.origins[origin]
        return origin.part if origin.part in ranks else ranks[origin.part % len(ranks)]


def candidates(sights: Sequence[Sight], stored: Sequence[Iterable[CheckpointName]]) -> list[Candidate]:
    """Every checkpoint that anybody has heard of, newest first.

    Args:
        sights: of every rank.
        stored: what each store lists.
    """
    seen: dict[CheckpointName, dict[Origin, list[int]]] = {}
    worlds: dict[CheckpointName, dict[Origin, int]] = {}
    for rank, sight in enumerate(sights):
        for tier, held in sight.held.items():
            for name, parts in held.items():
                for part, world_size in parts.items():
                    origin = Origin(tier, sight.node, part)
                    seen.setdefault(name, {}).setdefault(origin, []).append(rank)
                    worlds.setdefault(name, {})[origin] = world_size
    in_stores: dict[CheckpointName, list[int]] = {}
    for index, names in enumerate(stored):
        for name in names:
            in_stores.setdefault(name, []).append(index)
    found = []
    for name in sorted({*seen, *in_stores}, reverse=True):
        sizes = worlds.get(name, {})
        world_size = _likely(sizes.values())
        origins = {origin: tuple(ranks) for origin, ranks in seen.get(name, {}).items()
                   if sizes[origin] == world_size and 0 <= origin.part < world_size}
        found.append(Candidate(name, world_size, origins, tuple(in_stores.get(name, ()))))
    return found


def _likely(world_sizes: Iterable[int]) -> int:
    """Parts of one checkpoint agree about the number of ranks; should they not, most of them count."""
    counts = Counter(world_sizes)
    return max(counts, key=lambda size: (counts[size], size), default=0)


def nowhere(world_size: int, parts: set[int]) -> str:
    """Which parts are missing, in words; "" for none."""
    missing = [rank for rank in range(world_size) if rank not in parts]
    if not missing and world_size:
        return ""
    if not world_size:
        return "no part of it is on any node"
    shown = ", ".join(map(str, missing[:3])) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return f"part of rank {shown} is nowhere" if len(missing) == 1 else f"parts of ranks {shown} are nowhere"


def part_digest(shards: Iterable[StoredShard], own_state: str) -> str:
    """Identity of a part: boxes and hashes of its tensors, and what is not a tensor.

    Args:
        shards: with tied tensors under each of their names.
        own_state: the XXH3 of the rank's JSON, as hexadecimal text.
    """
    facts = sorted({(box.name, box.dtype, box.global_shape, box.offsets, box.shape, stored.xxh3)
                    for stored in shards for box in (stored.shard,)})
    return hashlib.sha256(repr((facts, own_state)).encode()).hexdigest()


def manifest_digests(manifest: Manifest) -> dict[int, str]:
    """Identity of every part of a checkpoint in a store."""
    parts = manifest_parts(manifest)
    own = {entry.name: entry.xxh3_128 for entry in manifest.files}
    return {rank: part_digest(parts.get(rank, ()), own.get(rank_file(rank), "")) for rank in range(manifest.world_size)}


def manifest_parts(manifest: Manifest) -> dict[int, list[StoredShard]]:
    """The shards that each rank has written."""
    parts: dict[int, list[StoredShard]] = {}
    for stored in manifest.shards:
        match = _TENSOR_FILE.match(stored.file)
        if match is None:
            raise ValueError(f"the manifest puts {stored.shard.name} into {stored.file!r}, which is no rank's file")
        parts.setdefault(int(match.group(1)), []).append(stored)
    return parts


def as_part(shards: Iterable[StoredShard], rank: int) -> list[StoredShard]:
    """A part's shards with places that do not depend on where it lies: the ``file`` is its number.

    Args:
        shards: with tied tensors under each of their names; those of one memory have one place.
    """
    places: dict[tuple[str, int], list[StoredShard]] = {}
    empty: list[StoredShard] = []
    found: list[StoredShard] = []
    for stored in shards:
        if stored.size_bytes:
            places.setdefault((stored.file, stored.offset_bytes), []).append(stored)
        else:
            empty.append(StoredShard(stored.shard, str(rank), 0, 0, stored.xxh3))
    offset = 0
    for same in sorted(places.values(), key=lambda same: min(key_of(stored) for stored in same)):
        found.extend(StoredShard(stored.shard, str(rank), offset, stored.size_bytes, stored.xxh3) for stored in same)
        offset += same[0].size_bytes
    return found + empty


def key_of(stored: StoredShard) -> tuple[str, tuple[int, ...]]:
    """What tells a box from all others of a checkpoint."""
    return stored.shard.name, stored.shard.offsets


@dataclass(frozen=True, slots=True)
class Agreement:
    """Which sources hold the same checkpoint.

    Attributes:
        origins: those that may be mixed, best first.
        notes: what was left out, and why.
        lacking: why it cannot be restored; "" when it can.
    """

    origins: tuple[Origin, ...]
    notes: tuple[str, ...] = ()
    lacking: str = ""

    def of_part(self, part: int) -> Origin | None:
        """The best place of what is said of a part; None when only stores have it."""
        return next((origin for origin in self.origins if origin.part == part), None)


def agree(digests: Mapping[Origin, str], committed: Mapping[int, str] | None, world_size: int) -> Agreement:
    """Sort out sources that disagree about the same part.

    Args:
        digests: of every part that could be opened.
        committed: of every part, as a store committed it: this one counts. None: no store has been asked.
    """
    kept: list[Origin] = []
    notes: list[str] = []
    for part in range(world_size):
        found = {origin: digest for origin, digest in digests.items() if origin.part == part}
        right, others = _right(found, committed, part)
        kept.extend(origin for origin in found if origin not in others)
        if others:
            places = ", ".join(sorted(str(origin) for origin in others))
            notes.append(f"the part of rank {part} in {places} is another one than {right} and is left out")
    origins = tuple(sorted(kept, key=lambda origin: (origin.part, origin.order)))
    lacking = "" if committed is not None else nowhere(world_size, {origin.part for origin in kept})
    return Agreement(origins, tuple(notes), lacking)


def _right(found: Mapping[Origin, str], committed: Mapping[int, str] | None, part: int) -> tuple[str, set[Origin]]:
    """Who is right about a part, in words, and all who say something else."""
    if committed is not None:
        return "the committed one", {origin for origin, digest in found.items() if digest != committed[part]}
    counts = Counter(found.values())
    if len(counts) < 2:
        return "", set()
    best = min(found, key=lambda origin: (-counts[found[origin]], origin.order))
    return f"that in {best}", {origin for origin, digest in found.items() if digest != found[best]}
