"""The learning rate as a function of the step."""

from __future__ import annotations

import pytest

from hpctrain.recipe.schema import LearningRateSchedule
from hpctrain.train.schedule import learning_rate

PEAK, STEPS = 0.01, 100


def rates(**schedule: object) -> list[float]:
    section = LearningRateSchedule.model_validate(schedule)
    return [learning_rate(step, STEPS, PEAK, section) for step in range(1, STEPS + 1)]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_warm_up_peak_and_end(kind: str) -> None:
    """It rises linearly to the peak at the end of the warm-up and falls to the minimum at the last step."""
    values = rates(kind=kind, warmup_steps=10, minimum_ratio=0.1)

    assert PEAK / 10 == pytest.approx(values[0])
    assert PEAK == pytest.approx(values[9])
    assert PEAK * 0.1 == pytest.approx(values[-1])
    assert values[9:] == sorted(values[9:], reverse=True)


def test_constant_stays_at_the_peak() -> None:
    """After the warm-up a constant schedule does not move."""
    assert {PEAK} == set(rates(kind="constant", warmup_steps=5)[4:])


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    """No warm-up means no step below the peak before the decay."""
    assert PEAK == rates(kind="cosine")[0]


def test_linear_is_halfway_in_the_middle() -> None:
    """Halfway between warm-up and end the linear schedule is halfway between peak and minimum."""
    values = rates(kind="linear", warmup_steps=20, minimum_ratio=0.0)

    assert PEAK / 2 == pytest.approx(values[59])


def test_one_step_is_no_division_by_zero() -> None:
    """A run of a single step has a learning rate."""
    assert PEAK == learning_rate(1, 1, PEAK, LearningRateSchedule())
