"""Checkpoints that a person wants to keep, whatever the retention says (service over a :class:`Store`).

A pin is a small file beside a checkpoint's own, written in one step, so that whoever reads the place sees it, on any node,
without asking anyone. It is no part of the checkpoint: the manifest does not name it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from hpctrain.checkpoint import names
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.store import Store
from hpctrain.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Pin:
    """Why a checkpoint is kept, and since when (seconds since the epoch)."""

    reason: str
    time: float | None


def is_pinned(store: Store, name: CheckpointName) -> bool:
    """Whether retention must leave a checkpoint alone; also when that cannot be told."""
    return read_pin(store, name) is not None


def read_pin(store: Store, name: CheckpointName) -> Pin | None:
    """The pin of a checkpoint, None if it has none. One that cannot be read still is one."""
    try:
        text = store.read_file(name, names.PIN)
        if text is None:
            return None
        record = json.loads(text)
        return Pin(str(record["reason"]), float(record["time"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Pin("", None)


def pin(store: Store, name: CheckpointName, reason: str, time: float) -> None:
    """Keep a complete checkpoint until it is unpinned.

    Raises:
        CheckpointError: it was removed at this moment.
        StorageError: the pin cannot be written.
    """
    gone = CheckpointError("it was removed while it was being pinned", where=store.at(name), hint="pin a newer one")
    if store.read_file(name, names.COMMIT) is None:
        raise gone
    store.write_file(name, names.PIN, (json.dumps({"reason": reason, "time": time}, indent=2) + "\n").encode())
    if store.read_file(name, names.COMMIT) is None:
        store.remove_file(name, names.PIN)
        raise gone


def unpin(store: Store, name: CheckpointName) -> bool:
    """Let retention decide again; whether there was a pin.

    Raises:
        StorageError: the pin cannot be removed.
    """
    if store.read_file(name, names.PIN) is None:
        return False
    store.remove_file(name, names.PIN)
    return True
