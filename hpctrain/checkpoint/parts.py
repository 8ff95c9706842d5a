"""What a tier that belongs to one node can do: its memory, its peer's copies in its memory, its disk (pure).

Such a tier holds *parts*: one rank's share of a checkpoint each. A checkpoint can be restored when every part is somewhere:
in the tiers of any node, or in a :class:`hpctrain.checkpoint.store.Store`. The same part has the same boxes, and the same
bytes, wherever it lies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import StoredShard


class Part(Protocol):
    """One rank's share of a checkpoint, opened for reading. It also is a :class:`hpctrain.checkpoint.store.Reader`."""

    @property
    def world_size(self) -> int:
        """Number of ranks that saved together."""

    @property
    def shards(self) -> Sequence[StoredShard]:
        """Every box with its committed hash; ``file`` and ``offset_bytes`` mean something to this part only."""

    @property
    def own_state(self) -> str:
        """JSON of what is not a tensor."""

    @property
    def share(self) -> Mapping[str, Any]:
        """``aliases`` (tied tensors) and ``replicated``; see :class:`hpctrain.checkpoint.share.Share`."""

    @property
    def world(self) -> Mapping[str, Any]:
        """Layout of the ranks that saved."""

    @property
    def reason(self) -> str:
        """Why it was saved."""

    def read_into(self, stored: StoredShard, target: memoryview) -> None:
        """Fill ``target`` with a shard's bytes, verified on the way. Raises DamagedError."""

    def close(self) -> None:
        """Let the place be reused."""


class PartTier(Protocol):
    """The parts that can be had on this node, by any rank on it."""

    @property
    def tier(self) -> str:
        """``ram``, ``peer`` or ``local``."""

    def holdings(self) -> Mapping[CheckpointName, Mapping[int, int]]:
        """For each checkpoint, the ranks whose complete part is here, each with the size of the world that saved it.

        Empty when the tier is out of order; never an error.
        """

    def open(self, name: CheckpointName, rank: int) -> Part:
        """Open a part.

        Raises:
            ValueError: it is damaged.
            OSError: it cannot be read.
            RefusedError: it is not here.
            WireError: whoever holds it is gone.
        """

    def drop(self, name: CheckpointName) -> None:
        """Forget every part of a checkpoint here, as far as that is possible; never an error."""
