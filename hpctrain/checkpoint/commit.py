"""One writer at a time, and its commits to a tier of whole checkpoints (service over a :class:`Store`).

Runs for rank 0 only, which decides what exists. docs/checkpoint-format.md is the specification. Needs no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hpctrain.checkpoint import names
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.problems import error_of, lowest_error
from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.write import check_shares, merge
from hpctrain.errors import CheckpointError, HpctrainError


class FencedError(CheckpointError):
    """A newer incarnation of the ranks has taken over the directory."""


def fenced(mine: int, newest: int, where: str) -> FencedError:
    """The error for a writer that has been overtaken."""
    return FencedError(
        f"incarnation {newest} has taken over; incarnation {mine} may no longer save", where=where,
        hint="an old process of this run is still alive, or the directory belongs to another run",
    )


def claim(tier: Store, wanted: int | None) -> int:
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
        raise fenced(incarnation, newest, tier.where)
    tier.claim(incarnation)
    for name in tier.checkpoints(committed=False):
        if name.incarnation <= incarnation:
            discard(tier, name)
    return incarnation


def discard(tier: Store, name: CheckpointName) -> None:
    """Remove a checkpoint if that is possible: what stays has no commit record, and the next start removes it."""
    with contextlib.suppress(HpctrainError, OSError):
        tier.discard(name)


class Committer:
    """Commits of one incarnation.

    Args:
        tier: claimed by it.
    """

    def __init__(self, tier: Store, incarnation: int) -> None:
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
            raise fenced(self._incarnation, newest, self._tier.where)
        return ""

    def prune(self, retention: Retention) -> None:
        """Remove what retention lets go; what cannot be seen or removed now is removed after a later save."""
        with contextlib.suppress(OSError):
            complete = self._tier.checkpoints(committed=True)
            metrics = {name: self._metrics(name) for name in complete} if retention.needs_metrics else {}
            for name in retention.superseded(complete, metrics=metrics):
                if not self._is_pinned(name):
                    discard(self._tier, name)

    def tidy(self, name: CheckpointName) -> None:
        """Remove what saves before this one have left unfinished: one is in flight at a time, so nobody writes it now."""
        with contextlib.suppress(OSError):
            for older in self._tier.checkpoints(committed=False):
                if older < name and older.incarnation == self._incarnation:
                    discard(self._tier, older)

    def _is_pinned(self, name: CheckpointName) -> bool:
        try:
            return self._tier.read_file(name, names.PIN) is not None
        except OSError:
            return True  # whatever it says

    def _metrics(self, name: CheckpointName) -> Mapping[str, Any]:
        try:
            metrics = self._tier.open(name)[0].world.get("metrics")
        except (ValueError, OSError):
            return {}
        return metrics if isinstance(metrics, Mapping) else {}

    def _write_index(self, name: CheckpointName, shares: list[Share]) -> Manifest:
        check_shares(shares)
        index, manifest = merge(name, shares)
        entry = self._tier.write_file(name, names.METADATA, index)
        return replace(manifest, files=(*manifest.files, entry))
