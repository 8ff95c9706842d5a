"""What is restored from which mix of tiers, and what is said of it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

from hpctrain.checkpoint.names import CheckpointName  # noqa: E402 - after the checks that both are there
from tests.unit.checkpoint.restore_world import World, parts_of, store_it  # noqa: E402


def name(step: int, incarnation: int = 0) -> CheckpointName:
    return CheckpointName(incarnation, step)


def test_mix_of_memory_and_peers_is_taken() -> None:
    """Rank 3's node has lost its memory: its part comes from the peer's node, the others from memory, none from disk."""
    world = World(nodes=4, ranks=4)
    parts = parts_of(7, 4)
    store_it(world.stores[0], name(5), parts_of(5, 4))
    for rank in range(3):
        world.nodes[rank]["ram"].put(name(7), rank, parts[rank])
    world.nodes[2]["peer"].put(name(7), 3, parts[3].copied())
    results, boxes = world.restore()

    assert [7] * 4 == [result.step for result in results], results
    assert all(box.equals(7) for box in boxes)
    assert {"ram": 3, "peer": 1} == results[0].tiers
    assert "step 7 from ram (3 parts) and peer (1 part of node n2); 0 steps lost" == results[3].line
    assert 0 == world.stores[0].reads
