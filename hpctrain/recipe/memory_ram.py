"""Host memory that checkpoints in memory take on one node, as an arithmetic that can be read (pure).

A copy of a rank's share of the state (weights and optimizer; gradients are not saved) is made in a *slot*. Two slots: the
newest copy that all ranks have is kept while the next one is made. ``history`` adds as many as it says. With copies on
peers each node also holds two slots of another node's ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpctrain.recipe.adapter_size import trained_parameters
from hpctrain.recipe.arithmetic import ranks_per_node, world_size
from hpctrain.recipe.check_checkpoint import peer_wanted, ram_wanted
from hpctrain.recipe.facts import ClusterFacts
from hpctrain.recipe.model_size import Shape
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.units import format_bytes, several

SLOTS = 2
"""One that is kept and one that is filled."""


@dataclass(frozen=True, slots=True)
class RamUse:
    """What the ram tier takes of one node, at most.

    Attributes:
        arithmetic: how that comes about.
        others_bytes: what the ranks themselves take of the same memory, as far as it is known.
        room_bytes: the node's memory for the job, None where it is not known.
        room_from: where that number comes from.
    """

    size_bytes: int
    arithmetic: str
    others_bytes: int = 0
    room_bytes: int | None = None
    room_from: str = ""

    @property
    def fits(self) -> bool:
        """Not known to be too large."""
        return self.room_bytes is None or self.size_bytes + self.others_bytes <= self.room_bytes

    @property
    def sentence(self) -> str:
        """What it takes and what there is."""
        others = f" beside {format_bytes(self.others_bytes)} of the ranks" if self.others_bytes else ""
        return (f"checkpoints in memory take {format_bytes(self.size_bytes)} of each node{others}, more than "
                f"{format_bytes(self.room_bytes or 0)} ({self.room_from}): {self.arithmetic}")


def ram_use(recipe: Recipe, shape: Shape, facts: ClusterFacts | None = None, rank_bytes: int = 0) -> RamUse | None:
    """The ram tier of one node; None where it is switched off.

    Args:
        rank_bytes: host memory of one rank, where it is known.
    """
    if not ram_wanted(recipe):
        return None
    optimizer = recipe.training.optimizer
    per_parameter = 4 + (8 if optimizer.kind == "adamw" else 4 if optimizer.momentum else 0)
    ranks, world = ranks_per_node(recipe.resources), world_size(recipe.resources)
    # Frozen weights are not saved.
    trained = trained_parameters(shape, recipe.adapter)
    share = -(-trained * per_parameter // world)
    own, others = SLOTS + recipe.checkpoint.ram.history, SLOTS if peer_wanted(recipe) else 0
    slots = f"({own} own + {others} of a peer) slots" if others else f"{own} slots"
    sums = f"{slots} x {several(ranks, 'rank')} x {trained:,} x {per_parameter} B / {several(world, 'rank')}"
    room, source = _room(recipe, facts)
    return RamUse((own + others) * ranks * share, sums, ranks * rank_bytes, room, source)


def ram_problems(recipe: Recipe, use: RamUse | None) -> list[Problem]:
    """A ram tier that is demanded and does not fit."""
    if use is None or use.fits or recipe.checkpoint.ram.enabled is not True:
        return []
    return [Problem(("checkpoint", "ram", "enabled"), use.sentence, hint=(
        "set checkpoint.ram.enabled to auto, which does without it where memory is short, or ask for more "
        "resources.memory_per_node or resources.nodes"))]


def ram_notes(recipe: Recipe, use: RamUse | None) -> list[str]:
    """A ram tier that will most likely be off."""
    if use is None or use.fits or recipe.checkpoint.ram.enabled is True:
        return []
    return [f"{use.sentence}; nodes that have not got it do without, and saves then stop training while they are written"]


def _room(recipe: Recipe, facts: ClusterFacts | None) -> tuple[int | None, str]:
    if recipe.resources.memory_per_node is not None:
        return recipe.resources.memory_per_node, "resources.memory_per_node"
    part = facts.partition(recipe.resources.partition) if facts else None
    if part is None or any(group.simulated for group in part.groups):
        return None, ""
    memory = max((group.memory_bytes for group in part.groups), default=0)
    return (memory, "memory of a node") if memory > 2**24 else (None, "")
