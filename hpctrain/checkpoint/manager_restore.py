"""Continues from the newest checkpoint that memory or the shared tier has (service)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from hpctrain.checkpoint.fill import Progress
from hpctrain.checkpoint.manager_state import Registered
from hpctrain.checkpoint.manifest import CommitRecord, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import Ranks
from hpctrain.checkpoint.restore import Source, restore
from hpctrain.checkpoint.shard_reader import ShardReader
from hpctrain.checkpoint.tier_ram_saves import RamSaves, Tell
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.clock import Clock
from hpctrain.errors import CheckpointError


def restore_newest(
    store: SharedTier, ram: RamSaves | None, state: Registered, ranks: Ranks, *, clock: Clock, tell: Tell,
    progress: Progress | None, before: int | None,
) -> tuple[int, int | None]:
    """Restore; returns the step (0: there was nothing), and the same if that step is in the shared tier, else None.

    Raises:
        CheckpointError: there are checkpoints but none can be used.
    """
    durable = [name for name in ranks.on_first(lambda: store.checkpoints(committed=True)) if _counts(name, before)]
    in_memory = [name for name in ram.complete_everywhere() if _counts(name, before)] if ram is not None else []
    skipped: list[str] = []
    # The newest first; where both tiers have it, memory first, because it is faster.
    for name, is_durable in sorted([(name, True) for name in durable] + [(name, False) for name in in_memory],
                                   key=lambda item: (item[0], not item[1]), reverse=True):
        load = partial(restore, items=state.items, rng=state.rng, ranks=ranks, progress=progress)
        if ram is None or is_durable:
            reason = _from_store(store, name, load, ranks, clock=clock, tell=tell)
        else:
            reason = ram.restore(name, load)
        if not reason:
            return name.step, name.step if name in durable else None
        skipped.append(f"{name}: {reason}")
        tell("checkpoint.skipped", f"{name} is passed over: {reason}", name.step, {"checkpoint": str(name)})
    if skipped and durable:  # memory that is damaged and holds all there was leaves nothing to mend
        raise CheckpointError(
            f"there are {len(skipped)} checkpoints and none can be used: " + "; ".join(skipped), where=str(store.root),
            hint="mend what the message names; to start from step 0 instead, move the directory away",
        )
    return 0, None


def _counts(name: CheckpointName, before: int | None) -> bool:
    return before is None or name.step < before


def _from_store(store: SharedTier, name: CheckpointName, load: Any, ranks: Ranks, *, clock: Clock, tell: Tell) -> str:
    """Verify and load one checkpoint; every rank returns the same reason why not, "" when it is loaded."""
    started = clock.monotonic()
    opened = ranks.on_first(lambda: _open(store, name))
    if isinstance(opened, str):
        return opened
    commit, manifest = opened
    reader = ShardReader(store.folder(name))
    source = Source(str(name), str(store.root), manifest, partial(store.read, name, manifest), reader)
    try:
        reason: str = load(source)
    finally:
        reader.close()
    if not reason:
        evidence: Mapping[str, Any] = {
            "checkpoint": str(name), "seconds": round(clock.monotonic() - started, 4), "size_bytes": manifest.size_bytes,
            "saved_by": dict(commit.world)}
        tell("checkpoint.restored", f"{name}, saved because {commit.reason}", name.step, evidence)
    return reason


def _open(store: SharedTier, name: CheckpointName) -> tuple[CommitRecord, Manifest] | str:
    try:
        return store.open(name)
    except (ValueError, OSError) as error:
        return str(error)
