"""One rank's part of a durable checkpoint, and what makes one checkpoint of all parts (service over files).

None of this needs a process group or torch: a rank's share can be written by another process that holds its bytes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.checkpoint import distcp, names
from hpctrain.checkpoint.distcp_file import NewFile, Written, write_distcp_to
from hpctrain.checkpoint.manifest import FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.records import entry_of
from hpctrain.checkpoint.shards import Shard, check_cover, with_aliases
from hpctrain.checkpoint.share import Share
from hpctrain.errors import StorageError
from hpctrain.files import write_atomic


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
    own_file, tensor_file = names.rank_file(rank), names.tensor_file(rank)
    remove_drafts(folder, (own_file, tensor_file))
    written = _write_tensors(folder, tensor_file, tensors)
    files = (written.file, write_file(folder, own_file, own.encode()))
    return Share(rank, files, tuple(with_aliases(written.shards, aliases or {})), replicated)


def _write_tensors(folder: Path, file: str, tensors: Iterable[tuple[Shard, Any]]) -> Written:
    """By rename, like everything: a second writer of the same share that comes late, because it hung, puts nothing in the
    place of what was committed meanwhile, or, in the moment after it has looked, the same bytes in place of the same bytes.
    """
    draft = folder / f".{file}.{secrets.token_hex(4)}"
    try:
        written = write_distcp_to(NewFile(draft), file, tensors)
        if (folder / names.COMMIT).exists():
            raise StorageError("the checkpoint was committed by somebody else meanwhile", where=str(folder))
        draft.replace(folder / file)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    return written  # its name is flushed with that of the rank's other file, which comes next


def remove_drafts(folder: Path, files: Collection[str]) -> None:
    """Remove what writers that were killed have left of these files.

    Raises:
        OSError: the folder cannot be read, or something in it cannot be removed.
    """
    for entry in os.listdir(folder):
        if any(entry.startswith(f".{file}.") for file in files):
            with contextlib.suppress(FileNotFoundError):
                (folder / entry).unlink()


def write_file(folder: Path, name: str, data: bytes) -> FileEntry:
    """Write a small file of a checkpoint, private, in place of what is there; it is on disk when this returns.

    Raises:
        StorageError: it cannot be written.
    """
    write_atomic(folder / name, data)
    return entry_of(name, data)


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
