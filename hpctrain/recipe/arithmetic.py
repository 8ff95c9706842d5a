"""Numbers that follow from a recipe's numbers (pure)."""

from __future__ import annotations

from hpctrain.recipe.schema import Recipe, Resources


def ranks_per_node(resources: Resources) -> int:
    """Training processes per node: as said, else one per GPU, else one."""
    return resources.ranks_per_node or resources.gpus_per_node or 1


def world_size(resources: Resources) -> int:
    """Training processes on all nodes (spares have none)."""
    return resources.nodes * ranks_per_node(resources)


def gradient_accumulation(recipe: Recipe) -> int:
    """Forward passes of one rank per optimizer step; the recipe must have passed the checks."""
    return recipe.training.global_batch_size // (recipe.training.micro_batch_size * world_size(recipe.resources))


def tokens_per_step(recipe: Recipe) -> int | None:
    """Tokens of one optimizer step over all ranks, None for ``command`` recipes."""
    return recipe.training.global_batch_size * recipe.data.sequence_length if recipe.data else None


def total_steps(recipe: Recipe) -> int | None:
    """Optimizer steps, where they are known before the data is read (``steps`` or ``tokens``), else None."""
    training, per_step = recipe.training, tokens_per_step(recipe)
    if training.steps is not None:
        return training.steps
    if training.tokens is not None and per_step:
        return -(-training.tokens // per_step)
    return None


def shard_group_size(recipe: Recipe) -> int:
    """Ranks that share one copy of parameters and optimizer: 1 for DDP, all for FSDP2, a group for HSDP."""
    parallelism, ranks = recipe.training.parallelism, world_size(recipe.resources)
    if parallelism.kind == "ddp":
        return 1
    if parallelism.kind == "fsdp2":
        return ranks
    return parallelism.shard_size or ranks_per_node(recipe.resources)
