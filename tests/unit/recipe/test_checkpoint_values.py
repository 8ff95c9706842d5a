"""The section ``checkpoint`` in the words of the checkpoint library, held against that library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpctrain.checkpoint.config import CheckpointConfig
from hpctrain.recipe.checkpoint_values import checkpoint_values
from hpctrain.recipe.schema import Recipe
from hpctrain.submit.plan_model import CheckpointPlan

Make = Callable[..., Recipe]


def config(recipe: Recipe) -> CheckpointConfig:
    return CheckpointConfig.from_json(checkpoint_values(recipe, root="/runs/r/checkpoints", run_name="r"))


def test_defaults_are_the_librarys_own(make: Make) -> None:
    """A recipe that says nothing: memory and shared tier on automatic intervals, peers from two nodes on, nothing else."""
    alone, two = config(make()), config(make(resources={"nodes": 2}))

    assert Path("/runs/r/checkpoints") == alone.root
    assert alone.schedule.is_auto and alone.ram is not None and alone.ram.schedule.is_auto
    assert (None, None, None) == (alone.peer, alone.local, alone.object)
    assert (2, 0.01, None) == (alone.retention.keep_last, alone.overhead_cap, alone.mttf_s)
    assert two.peer is not None


def test_every_key_arrives(make: Make) -> None:
    """What a recipe says about tiers is what the library reads, with a directory and folder of the run's own."""
    section: dict[str, Any] = {
        "every": 60, "keep_last": 3, "keep_every_steps": 100, "keep_best": {"metric": "validation_loss", "count": 2},
        "overhead_percent": 2.5, "mean_time_to_failure": 3600, "ram": {"every_steps": 4, "history": 1}, "peer": True,
        "local": {"path": "/scratch/", "every_steps": 10}, "object": {"url": "s3://b/p", "every": 120, "keep_last": 5},
    }
    made = config(make(checkpoint=section, resources={"nodes": 2}))

    assert (60, 3, 100) == (made.schedule.every_s, made.retention.keep_last, made.retention.keep_every_steps)
    best = made.retention.keep_best
    assert best is not None and ("validation_loss", "min", 2) == (best.metric, best.mode, best.count)
    assert (0.025, 3600) == (made.overhead_cap, made.mttf_s)
    assert made.ram and made.peer and made.local and made.object
    assert (4, 1, 4) == (made.ram.schedule.every_steps, made.ram.history, made.peer.schedule.every_steps)
    assert (Path("/scratch/r"), 10, 1) == (made.local.path, made.local.schedule.every_steps, made.local.retention.keep_last)
    assert ("s3://b/p/r", 120, 5) == (made.object.url, made.object.schedule.every_s, made.object.retention.keep_last)


def test_nodes_have_local_directories_of_their_own(make: Make) -> None:
    """Nodes that share a host, as those of a private cluster do, must not write into each other's tier."""
    values = checkpoint_values(make(checkpoint={"local": {"path": "/scratch"}}), root="/r", run_name="r")
    plan, without = CheckpointPlan(values=values), CheckpointPlan(values={"root": "/r", "local": None})

    assert ["/scratch/r/n1", "/scratch/r/n2"] == [plan.on_node(node)["local"]["path"] for node in ("n1", "n2")]
    assert {"root": "/r", "local": None} == without.on_node("n1")
