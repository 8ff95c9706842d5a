"""The order in which samples are seen."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpctrain.train.order import Permutation, SampleOrder

SEEDS = st.integers(0, 2**63 - 1)


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 600), seed=SEEDS, epoch=st.integers(0, 50))
def test_an_epoch_sees_every_sample_once(size: int, seed: int, epoch: int) -> None:
    """A permutation is one: each sample stands at exactly one position."""
    permutation = Permutation(size, seed, epoch)

    assert list(range(size)) == sorted(permutation(position) for position in range(size))


def test_order_depends_on_seed_and_epoch() -> None:
    """Another seed, and another epoch of the same seed, give another order; the same give the same."""

    def order(seed: int, epoch: int) -> list[int]:
        return [Permutation(100, seed, epoch)(position) for position in range(100)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_order_does_not_change_between_versions() -> None:
    """These numbers are part of every checkpoint's meaning: a run must continue with the same samples after an upgrade."""
    assert [9, 2, 4, 8, 7, 6, 1, 3, 0, 5] == [Permutation(10, 42, 0)(position) for position in range(10)]


def test_order_looks_random() -> None:
    """Neighbours in the order are far apart in the data, and positions are not correlated with samples."""
    size = 4096
    values = [Permutation(size, 42, 0)(position) for position in range(size)]
    mean = (size - 1) / 2
    variance = sum((value - mean) ** 2 for value in values) / size
    correlation = sum((position - mean) * (value - mean) for position, value in enumerate(values)) / size / variance
    adjacent = sum(abs(left - right) == 1 for left, right in pairwise(values))

    assert abs(correlation) < 0.06
    assert adjacent < 12  # 2 are expected by chance


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 200), seed=SEEDS, cursor=st.integers(0, 2000), ranks=st.sampled_from([1, 2, 3, 4, 6, 8]))
def test_global_batch_does_not_depend_on_the_number_of_ranks(size: int, seed: int, cursor: int, ranks: int) -> None:
    """However many ranks share a global batch, together they see the same samples, each as often."""
    order, batch = SampleOrder(size, seed), 24
    alone = order.share(cursor, batch, 0, 1)
    together = [sample for rank in range(ranks) for sample in order.share(cursor, batch, rank, ranks)]

    assert sorted(alone) == sorted(together)
    assert {batch // ranks} == {len(order.share(cursor, batch, rank, ranks)) for rank in range(ranks)}


def test_position_outside_the_data_is_refused() -> None:
    """A position that no sample stands at is an error, not a wrapped-around sample."""
    with pytest.raises(IndexError):
        Permutation(10, 0, 0)(10)
