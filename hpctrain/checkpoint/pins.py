"""Checkpoints that a person wants to keep, whatever the retention says (adapter over the file system).

A pin is a small file in the checkpoint's own directory, written in one step, so that every reader of the directory sees it,
on any node, without asking anyone. It is no part of the checkpoint: the manifest does not name it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from hpctrain.checkpoint import names
from hpctrain.errors import CheckpointError
from hpctrain.files import storage_errors, sync_dir, write_json_atomic


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a checkpoint is kept, and since when (seconds since the epoch)."""

    reason: str
    time: float | None


def is_pinned(folder: Path) -> bool:
    """Whether retention must leave a checkpoint alone; asked for many, so it reads nothing."""
    return (folder / names.PIN).exists()


def read_pin(folder: Path) -> Pin | None:
    """The pin of a checkpoint, None if it has none. One that cannot be read still is one."""
    if not is_pinned(folder):
        return None
    try:
        record = json.loads((folder / names.PIN).read_bytes())
        return Pin(str(record["reason"]), float(record["time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Pin("", None)


def pin(folder: Path, reason: str, time: float) -> None:
    """Keep a complete checkpoint until it is unpinned.

    Raises:
        CheckpointError: it was removed at this moment.
        StorageError: the pin cannot be written.
    """
    write_json_atomic(folder / names.PIN, {"reason": reason, "time": time})
    if not (folder / names.COMMIT).exists():
        raise CheckpointError("it was removed while it was being pinned", where=str(folder), hint="pin a newer one")


def unpin(folder: Path) -> bool:
    """Let retention decide again; whether there was a pin.

    Raises:
        StorageError: the pin cannot be removed.
    """
    with storage_errors(folder):
        try:
            (folder / names.PIN).unlink()
        except FileNotFoundError:
            return False
        sync_dir(folder)
    return True
