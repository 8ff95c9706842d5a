"""Is one GPU too small for a model, and over how many ranks is it spread then? (pure)"""

from __future__ import annotations

SHARE_OF_MEMORY = 0.7
"""Of a GPU's memory that weights may take; the rest is for logits, keys and values, and what libraries need."""


def is_too_large(weights_bytes: int, memory_bytes: int) -> bool:
    """One GPU does not hold the model and compute with it.

    Args:
        weights_bytes: of the model, in the type in which it is loaded.
        memory_bytes: of a GPU; 0 where there is none, and then nothing is too large.
    """
    return bool(memory_bytes) and weights_bytes > SHARE_OF_MEMORY * memory_bytes


def ranks_of_a_copy(weights_bytes: int, memory_bytes: int, *, world_size: int, local_world_size: int) -> int:
    """The ranks that hold one copy together: those of a node, between which it is fast, if they have the room.

    Args:
        memory_bytes: of the GPU of one rank; 0 on CPUs.
        local_world_size: ranks of each node.
    """
    even = local_world_size > 1 and world_size % local_world_size == 0
    if even and not is_too_large(weights_bytes, memory_bytes * local_world_size):
        return local_world_size
    return world_size
