"""One rank's part of a durable checkpoint, and what makes one checkpoint of all parts (service over files).

None of this needs a process group or torch: a rank's share can be written by another process that holds its bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.checkpoint import distcp, names
from hpctrain.checkpoint.distcp_file import write_distcp
from hpctrain.checkpoint.manifest import Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import Shard, check_cover, with_aliases
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.tier_shared import write_file


def write_share(
    folder: Path, rank: int, tensors: Iterable[tuple[Shard, Any]], own: str, *, aliases: Mapping[str, str] | None = None,
    replicated: str = "",
) -> Share:
    """Write a rank's tensors and the rest of its state; all of it is on disk when this returns.

    Args:
        folder: of the checkpoint; it exists.
        tensors: boxes with their bytes, taken one at a time.
        own: the rank's state that is not a tensor, as JSON.
        aliases: tensors that are the same bytes as another one, and its name.
        replicated: see :class:`Share`.

    Raises:
        OSError, StorageError: it cannot be written.
        ValueError: a tensor cannot be stored.
    """
    written = write_distcp(folder / names.tensor_file(rank), tensors)
    files = (written.file, write_file(folder, names.rank_file(rank), own.encode()))
    return Share(rank, files, tuple(with_aliases(written.shards, aliases or {})), replicated)


def check_shares(shares: Sequence[Share]) -> None:
    """Make sure that the shares are a whole: every element of every tensor once.

    Raises:
        ValueError: they are not; the message names a rank or a tensor.
    """
    for share in shares:
        if share.replicated != shares[0].replicated:
            raise ValueError(f"ranks {shares[0].rank} and {share.rank} hold different tensors that are not sharded; "
                             "whoever shards a state by hand must register it under a name of its own on each rank")
    for stored in distcp.by_name(shard for share in shares for shard in share.shards).values():
        check_cover([item.shard for item in stored])


def merge(name: CheckpointName, shares: Sequence[Share]) -> tuple[bytes, Manifest]:
    """DCP's index over all shares, and the manifest (which does not name the index yet)."""
    shards = tuple(shard for share in shares for shard in share.shards)
    files = tuple(entry for share in shares for entry in share.files)
    manifest = Manifest(name.step, name.incarnation, len(shares), files, shards)
    return distcp.index(manifest.table()), manifest
