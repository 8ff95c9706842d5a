"""Train large models on Slurm: recipes, health checks, recovery.

Importing this package costs nothing: what it exports is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hpctrain.api import Job, jobs, submit

__all__ = ["Job", "__version__", "jobs", "submit"]


def __getattr__(name: str) -> object:
    if name in ("Job", "jobs", "submit"):
        from hpctrain import api

        return getattr(api, name)
    raise AttributeError(f"module 'hpctrain' has no attribute {name!r}")
