"""One writer at a time, and its commits on the shared tier (service over :class:`SharedTier`).

Runs on rank 0 only, which decides what exists and tells the others. docs/checkpoint-format.md is the specification.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpctrain.checkpoint import names, pins
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.ranks import error_of, lowest_error
from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.checkpoint.write import check_shares, merge
from hpctrain.errors import CheckpointError, HpctrainError


class FencedError(CheckpointError):
    """A newer incarnation of the ranks has taken over the directory."""


def fenced(mine: int, newest: int, root: Path | str) -> FencedError:
    """The error for a writer that has been overtaken."""
    return FencedError(
        f"incarnation {newest} has taken over; incarnation {mine} may no longer save", where=str(root),
        hint="an old process of this run is still alive, or the directory belongs to another run",
    )


def claim(tier: SharedTier, wanted: int | None) -> int:
    """Take a directory over, and remove what writers before left unfinished; return the incarnation.

    Args:
        wanted: this start's incarnation; None for the one after the newest.

    Raises:
        FencedError: a newer incarnation has it.
        StorageError: the directory cannot be written.
    """
    newest = names.newest_incarnation(tier.entries())
    incarnation = newest + 1 if wanted is None else wanted
    if newest > incarnation:
        raise fenced(incarnation, newest, tier.root)
    tier.claim(incarnation)
    for name in tier.checkpoints(committed=False):
        if name.incarnation <= incarnation:
            discard(tier, name)
    return incarnation


def discard(tier: SharedTier, name: CheckpointName) -> None:
    """Remove a checkpoint if that is possible: what stays has no commit record, and the next start removes it."""
    with contextlib.suppress(HpctrainError, OSError):
        tier.discard(name)


class Committer:
    """Commits of one incarnation.

    Args:
        tier: claimed by it.
    """

    def __init__(self, tier: SharedTier, incarnation: int) -> None:
        self._tier, self._incarnation = tier, incarnation

    def prepare(self, name: CheckpointName) -> str:
        """Make an empty directory for a checkpoint; why that failed, "" if it did not.

        Raises:
            FencedError: see :meth:`fence_error`.
        """
        return self.fence_error() or error_of(lambda: self._tier.prepare(name))

    def commit(
        self, name: CheckpointName, gathered: Sequence[tuple[str, list[Share]]], *, time: float, reason: str,
        world: Mapping[str, Any],
    ) -> tuple[str, int]:
        """Make a checkpoint of what all ranks have written; why there is none ("" if there is), and its bytes.

        Args:
            gathered: of each rank its error, and its share if it has none.

        Raises:
            FencedError: see :meth:`fence_error`.
        """
        # First of all: who has been overtaken may have failed just because the newcomer tidied up.
        error = self.fence_error() or lowest_error([text for text, _ in gathered])
        if error:
            return error, 0
        shares = [share for _, written in gathered for share in written]
        manifests: list[Manifest] = []
        error = error_of(lambda: manifests.append(self._write_index(name, shares)))
        # Once more: a newer incarnation may have come while the index was written.
        error = error or self.fence_error()
        if error:
            return error, 0
        manifest = manifests[0]
        error = error_of(lambda: self._tier.commit(name, manifest, time=time, reason=reason, world=world))
        return error, manifest.size_bytes

    def fence_error(self) -> str:
        """Why it cannot be told whether a newer incarnation has taken over (then nothing may be committed); "" if none has.

        Raises:
            FencedError: one has.
        """
        try:
            newest = names.newest_incarnation(self._tier.entries())
        except OSError as error:
            return f"the directory cannot be read: {error.strerror}"
        if newest > self._incarnation:
            raise fenced(self._incarnation, newest, self._tier.root)
        return ""

    def prune(self, retention: Retention) -> None:
        """Remove what retention lets go; what cannot be seen or removed now is removed after a later save."""
        with contextlib.suppress(OSError):
            complete = self._tier.checkpoints(committed=True)
            pinned = [name for name in complete if pins.is_pinned(self._tier.folder(name))]
            for name in retention.superseded(complete, pinned):
                discard(self._tier, name)

    def _write_index(self, name: CheckpointName, shares: list[Share]) -> Manifest:
        check_shares(shares)
        index, manifest = merge(name, shares)
        entry = self._tier.write(self._tier.folder(name), names.METADATA, index)
        return replace(manifest, files=(*manifest.files, entry))
