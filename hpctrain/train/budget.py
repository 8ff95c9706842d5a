"""How many steps a recipe means, once the size of the data is known (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from hpctrain.errors import RecipeError
from hpctrain.recipe.schema import Training


@dataclass(frozen=True, slots=True)
class BatchLayout:
    """How a global batch is spread.

    Attributes:
        global_batch_size: samples per optimizer step, over all ranks.
        micro_batch_size: samples per forward pass of one rank.
        accumulation: forward passes of one rank per optimizer step.
    """

    global_batch_size: int
    micro_batch_size: int
    accumulation: int


def batch_layout(training: Training, world_size: int) -> BatchLayout:
    """Split the global batch over ranks and forward passes.

    Raises:
        RecipeError: it does not divide.
    """
    per_pass = training.micro_batch_size * world_size
    accumulation, rest = divmod(training.global_batch_size, per_pass)
    if rest or not accumulation:
        raise RecipeError(
            f"global_batch_size {training.global_batch_size} is not a multiple of micro_batch_size x ranks = "
            f"{training.micro_batch_size} x {world_size} = {per_pass}",
            where="training.global_batch_size", hint="change one of the three so that it divides",
        )
    return BatchLayout(training.global_batch_size, training.micro_batch_size, accumulation)


def total_steps(training: Training, samples: int, sequence_length: int) -> int:
    """Optimizer steps of the whole run.

    Args:
        samples: training samples in the data set.
        sequence_length: tokens per sample.

    Raises:
        RecipeError: the data does not fill one global batch, or none of steps, tokens and epochs is given.
    """
    if samples < training.global_batch_size:
        raise RecipeError(
            f"the data gives {samples} training samples of {sequence_length} tokens, fewer than one global batch of "
            f"{training.global_batch_size}",
            where="data", hint="add data, or lower data.sequence_length or training.global_batch_size",
        )
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return -(-training.tokens // (training.global_batch_size * sequence_length))
    if training.epochs is not None:
        steps = int(training.epochs * samples / training.global_batch_size)
        if steps < 1:
            raise RecipeError(f"{training.epochs} epochs of {samples} samples are not one step", where="training.epochs")
        return steps
    raise RecipeError("one of steps, tokens and epochs must be given", where="training")
