"""Gradient accumulation of a model that we sharded, under a Trainer that did not (adapter over FSDP2)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch.distributed.fsdp import FSDPModule


@contextlib.contextmanager
def defer_reduction(trainer: Any) -> Iterator[None]:
    """Backward passes inside keep their gradients to themselves; the next one outside adds them up over the ranks."""
    parts = [module for module in trainer.model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_requires_gradient_sync(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_requires_gradient_sync(True, recurse=False)
