"""Checkpoints: saved whole or not at all, restored bit for bit.

Importing this package is light; the names below bring torch with them when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpctrain.checkpoint.config import CheckpointConfig
    from hpctrain.checkpoint.manager import Checkpointer, SaveResult

__all__ = ["CheckpointConfig", "Checkpointer", "SaveResult"]


def __getattr__(name: str) -> Any:
    if name == "CheckpointConfig":
        from hpctrain.checkpoint.config import CheckpointConfig

        return CheckpointConfig
    if name in ("Checkpointer", "SaveResult"):
        from hpctrain.checkpoint import manager

        return getattr(manager, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
