"""Seeds, determinism and a way to undo what drawing numbers did (adapter over the random generators)."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator

import torch

from hpctrain.checkpoint.torch_state import RandomState


def make_deterministic() -> None:
    """Refuse kernels whose result depends on timing. Call before CUDA is first used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    # Filling fresh memory with NaN catches bugs at the price of speed; results do not depend on it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined,unused-ignore]


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators. NumPy takes 32 bits only."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)  # the legacy generator is the one that libraries draw from
    torch.manual_seed(seed % 2**63)


@contextlib.contextmanager
def unchanged_randomness() -> Iterator[None]:
    """Whatever is drawn inside, the generators stand afterwards where they stood before."""
    state = RandomState()
    before = state.state_dict()
    try:
        yield
    finally:
        state.load_state_dict(before)
