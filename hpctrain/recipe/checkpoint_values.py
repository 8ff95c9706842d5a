"""The section ``checkpoint`` as the checkpoint library reads it: the JSON of HPCTRAIN_CHECKPOINT (pure).

The format is that of ``CheckpointConfig.from_json``; a recipe knows nothing else of that library.
"""

from __future__ import annotations

from typing import Any

from hpctrain.recipe.check_checkpoint import peer_wanted, ram_wanted
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_checkpoint import Checkpoint, LocalTier, ObjectTier


def checkpoint_values(recipe: Recipe, *, root: str, run_name: str) -> dict[str, Any]:
    """Every tier of a run.

    The local tier gets a directory of this run; the agent of each node appends the node's name, because nodes may share
    a host.

    Args:
        root: directory of the shared tier.
    """
    section, parallelism = recipe.checkpoint, recipe.training.parallelism
    ram, local, store = section.ram, section.local, section.object
    # Every copy in memory goes to the peer, as fast as the network lets it: that does not hold training up.
    in_memory = {"every_steps": ram.every_steps} if isinstance(ram.every_steps, int) else "auto"
    return {
        "root": root, "schedule": _schedule(section), "retention": {
            "keep_last": section.keep_last, "keep_every_steps": section.keep_every_steps, "keep_best": _best(section)},
        "world": {"parallelism": parallelism.kind, "shard_size": parallelism.shard_size} if recipe.method else {},
        "ram": {"schedule": in_memory, "history": ram.history} if ram_wanted(recipe) else None,
        "peer": {"schedule": in_memory} if peer_wanted(recipe) else None,
        "local": {"path": f"{local.path.rstrip('/')}/{run_name}", **_times(local)} if local.path else None,
        "object": {"url": f"{store.url.rstrip('/')}/{run_name}", **_times(store)} if store.url else None,
        "mttf_s": section.mean_time_to_failure, "overhead_cap": section.overhead_percent / 100,
    }


def _times(tier: LocalTier | ObjectTier) -> dict[str, Any]:
    return {"schedule": _schedule(tier), "retention": {"keep_last": tier.keep_last}}


def _schedule(tier: Checkpoint | LocalTier | ObjectTier) -> Any:
    if tier.every_steps is not None:
        return {"every_steps": tier.every_steps}
    return {"every_s": tier.every} if isinstance(tier.every, int) else "auto"


def _best(section: Checkpoint) -> dict[str, Any] | None:
    best = section.keep_best
    return {"metric": best.metric, "mode": best.mode, "count": best.count} if best.metric else None
