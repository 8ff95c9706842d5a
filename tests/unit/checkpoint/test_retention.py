"""Which checkpoints stay because a metric was best, and how the rules travel to the writer."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.retention import KeepBest, Retention

NAMES = [CheckpointName(0, step) for step in range(1, 9)]
LOSSES = {name: {"loss": loss} for name, loss in zip(NAMES, (9.0, 3.0, 5.0, 1.0, 8.0, 2.0, 7.0, 6.0), strict=True)}


def test_best_by_a_metric_stay() -> None:
    """The lowest (or highest) values stay beside the newest."""
    lowest = Retention(1, keep_best=KeepBest("loss", "min", 2))
    assert [NAMES[3], NAMES[5], NAMES[7]] == [name for name in NAMES if name not in lowest.superseded(NAMES, (), LOSSES)]
    highest = Retention(1, keep_best=KeepBest("loss", "max"))
    assert [NAMES[0], NAMES[7]] == [name for name in NAMES if name not in highest.superseded(NAMES, (), LOSSES)]


def test_what_has_no_such_number_does_not_take_part() -> None:
    """A missing metric, a NaN or a text is never best; of equal values the newer one is."""
    metrics: dict[CheckpointName, dict[str, Any]] = {
        NAMES[0]: {}, NAMES[1]: {"loss": math.nan}, NAMES[2]: {"loss": "0"}, NAMES[3]: {"loss": 4}, NAMES[4]: {"loss": 4.0},
        NAMES[5]: {"loss": True},
    }
    assert [NAMES[4], NAMES[3]] == KeepBest("loss", "min", 9).best(metrics)


@given(st.sets(st.sampled_from(NAMES)), st.integers(1, 3), st.integers(1, 3))
def test_best_never_takes_from_the_newest(complete: set[CheckpointName], last: int, count: int) -> None:
    """Keeping the best only ever keeps more: the newest ones stay, and what is gone would be gone without it, too."""
    plain = Retention(last).superseded(complete)
    best = Retention(last, keep_best=KeepBest("loss", "min", count)).superseded(complete, (), LOSSES)
    assert set(best) <= set(plain)
    assert not set(sorted(complete)[-last:]) & set(best)


@pytest.mark.parametrize("retention", [
    Retention(), Retention(3, 100), Retention(1, None, KeepBest("validation_loss", "max", 4)),
])
def test_rules_read_back(retention: Retention) -> None:
    """A retention survives JSON."""
    assert retention == Retention.from_json(retention.to_json())


@pytest.mark.parametrize("value", [
    None, [], {"keep": 1}, {"keep_last": 0}, {"keep_every_steps": 0}, {"keep_best": {"mode": "min"}},
    {"keep_best": {"metric": "loss", "mode": "least"}}, {"keep_best": {"metric": "loss", "count": 0}},
    {"keep_best": {"metric": "", "count": 1}}, {"keep_best": "loss"}, {"keep_last": "2"},
])
def test_other_rules_are_refused(value: object) -> None:
    """What is unknown or would delete the only checkpoint is an error."""
    with pytest.raises(ValueError, match=r"retention|keep_"):
        Retention.from_json(value)
