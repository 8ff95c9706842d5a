"""How many steps a recipe means, and how a batch is spread."""

from __future__ import annotations

import pytest

from hpctrain.errors import RecipeError
from hpctrain.recipe.schema import Training
from hpctrain.train.budget import BatchLayout, batch_layout, total_steps


def test_global_batch_is_spread_over_ranks_and_passes() -> None:
    """What ranks and micro batches do not hold is done by accumulation."""
    assert BatchLayout(32, 2, 4) == batch_layout(Training(global_batch_size=32, micro_batch_size=2), 4)


def test_batch_that_does_not_divide_shows_the_arithmetic() -> None:
    """The refusal names all three numbers and their product."""
    with pytest.raises(RecipeError, match=r"32 is not a multiple of micro_batch_size x ranks = 3 x 4 = 12"):
        batch_layout(Training(global_batch_size=32, micro_batch_size=3), 4)


@pytest.mark.parametrize(
    ("training", "steps"),
    [({"steps": 7}, 7), ({"tokens": 1000}, 8), ({"tokens": 1024}, 8), ({"epochs": 2.0}, 25), ({"epochs": 0.5}, 6)],
)
def test_steps_tokens_and_epochs(training: dict[str, float], steps: int) -> None:
    """Tokens are rounded up to whole steps, epochs down."""
    recipe = Training.model_validate({"global_batch_size": 8, **training})

    assert steps == total_steps(recipe, samples=100, sequence_length=16)


def test_too_little_data_is_refused_with_numbers() -> None:
    """Data that does not fill one global batch is refused, and the message says how much there is."""
    with pytest.raises(RecipeError, match="5 training samples of 16 tokens, fewer than one global batch of 8"):
        total_steps(Training(global_batch_size=8, steps=1), samples=5, sequence_length=16)
