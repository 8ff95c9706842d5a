"""The tier behind a path or URL (service)."""

from __future__ import annotations

from pathlib import Path

from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.tier_shared import SharedTier


def open_store(root: str) -> Store:
    """A directory, or, with ``://`` in it, an object store.

    Raises:
        UsageError: the URL cannot be used.
        MissingDependencyError: the package for it is not installed.
    """
    if "://" not in root:
        return SharedTier(Path(root))
    from hpctrain.checkpoint.tier_object import ObjectTier

    return ObjectTier(root)
