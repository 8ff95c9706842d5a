"""Makes one whole checkpoint of parts that lie on the disks of several nodes (service over local tiers and a store)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from hpctrain.checkpoint import names
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.tier_local import LocalPart, LocalTier
from hpctrain.checkpoint.write import check_shares, merge
from hpctrain.errors import CheckpointError

OnBytes = Callable[[int], None]


def joinable(folders: Sequence[Path]) -> list[CheckpointName]:
    """Checkpoints of which every part is in one of these folders, oldest first."""
    parts: dict[CheckpointName, dict[int, int]] = {}
    for folder in folders:
        for name, ranks in LocalTier(folder).holdings().items():
            parts.setdefault(name, {}).update(ranks)
    return sorted(name for name, ranks in parts.items() if len(ranks) == max(ranks.values()))


def join_parts(
    folders: Sequence[Path], store: Store, name: CheckpointName, *, on_bytes: OnBytes = lambda _: None,
) -> int:
    """Put the parts of a checkpoint together in a store, where stock tools can read it; the bytes that were written.

    Every byte is compared with its hash while it is read.

    Args:
        folders: directories of local tiers, one per node.
        on_bytes: told of every piece that was read, for a progress bar.

    Raises:
        CheckpointError: a part is missing or damaged, or the parts are not a whole.
        StorageError: the store cannot be written, or has a checkpoint of this name already.
    """
    with ExitStack() as stack:
        parts = _open_all(folders, name, stack)
        try:
            store.prepare(name)
            shares = [_copy(store, name, rank, part, on_bytes) for rank, part in enumerate(parts)]
            check_shares(shares)
            index, manifest = merge(name, shares)
            manifest = replace(manifest, files=(*manifest.files, store.write_file(name, names.METADATA, index)))
        except (ValueError, DamagedError) as error:
            raise CheckpointError(f"{name} cannot be joined: {error}", where=store.where) from error
        store.commit(name, manifest, time=parts[0].time, reason=parts[0].reason, world=parts[0].world)
    return manifest.size_bytes


def _open_all(folders: Sequence[Path], name: CheckpointName, stack: ExitStack) -> list[LocalPart]:
    """By rank."""
    where: dict[int, LocalTier] = {}
    world_size = 0
    for folder in folders:
        tier = LocalTier(folder)
        for rank, size in tier.holdings().get(name, {}).items():
            where[rank], world_size = tier, max(world_size, size)
    missing = sorted(set(range(max(world_size, 1))) - set(where))
    if missing:
        raise CheckpointError(
            f"{name} cannot be joined: no part of rank {', '.join(map(str, missing[:8]))} in any of these folders",
            where=", ".join(map(str, folders)), hint="name the folders of all nodes that the ranks ran on",
        )
    try:
        return [_opened(where[rank], name, rank, stack) for rank in range(world_size)]
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{name} cannot be joined: {error}", where=", ".join(map(str, folders))) from error


def _opened(tier: LocalTier, name: CheckpointName, rank: int, stack: ExitStack) -> LocalPart:
    part = tier.open(name, rank)
    stack.callback(part.close)
    return part


def _copy(store: Store, name: CheckpointName, rank: int, part: LocalPart, on_bytes: OnBytes) -> Share:
    def tensors() -> Iterator[tuple[Shard, memoryview]]:
        for stored in part.shards:
            target = memoryview(bytearray(stored.size_bytes))
            part.read_into(stored, target)
            yield stored.shard, target
            on_bytes(stored.size_bytes)

    aliases, replicated = part.share["aliases"], part.share["replicated"]
    return store.write_share(name, rank, tensors(), part.own_state, aliases=aliases, replicated=replicated)
