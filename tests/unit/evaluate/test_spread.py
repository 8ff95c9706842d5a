"""When a model is spread, and over how many ranks."""

from __future__ import annotations

import pytest

from hpctrain.evaluate.spread import is_too_large, ranks_of_a_copy

GIB = 1 << 30


def test_a_gpu_holds_weights_and_what_computing_takes() -> None:
    """Seven tenths of a GPU may be weights; a CPU holds everything."""
    assert not is_too_large(56 * GIB, 80 * GIB)
    assert is_too_large(57 * GIB, 80 * GIB)
    assert not is_too_large(10**15, 0)


@pytest.mark.parametrize(("weights", "memory", "world", "local", "expected"), [
    (140 * GIB, 80 * GIB, 16, 8, 8),      # 70B in bfloat16: one node of H100s has the room
    (810 * GIB, 80 * GIB, 16, 8, 16),     # 405B: it takes both
    (140 * GIB, 80 * GIB, 3, 2, 3),       # nodes of different sizes
    (140 * GIB, 80 * GIB, 4, 1, 4),       # one GPU per node
    (1, 0, 4, 2, 2),                      # CPUs
])
def test_a_copy_stays_in_a_node_where_it_has_the_room(
    weights: int, memory: int, world: int, local: int, expected: int,
) -> None:
    """The fast links inside a node carry the exchange, unless the weights need more nodes or nodes are unequal."""
    assert expected == ranks_of_a_copy(weights, memory, world_size=world, local_world_size=local)
