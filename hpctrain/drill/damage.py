"""Damages a checkpoint on disk (adapter over the file system)."""

from __future__ import annotations

import os
from pathlib import Path

from hpctrain.checkpoint.names import COMMIT, parse_name
from hpctrain.errors import NotFoundError


def damage_newest(checkpoints: Path) -> str:
    """Turn one byte in the middle of the newest complete checkpoint's largest file around, as a disk would; returns which.

    Raises:
        NotFoundError: there is no complete checkpoint.
    """
    try:
        names = [name for entry in os.scandir(checkpoints) if (name := parse_name(entry.name)) is not None
                 and (checkpoints / entry.name / COMMIT).is_file()]
    except OSError:
        names = []
    if not names:
        raise NotFoundError("there is no complete checkpoint to damage", where=str(checkpoints),
                            hint="wait for the first: hpctrain checkpoints list JOB")
    folder = checkpoints / str(max(names))
    files = [path for path in folder.iterdir() if path.suffix == ".distcp"]
    target = max(files or list(folder.iterdir()), key=lambda path: path.stat().st_size)
    with target.open("r+b") as file:
        middle = target.stat().st_size // 2
        file.seek(middle)
        byte = file.read(1)
        file.seek(middle)
        file.write(bytes([byte[0] ^ 0xFF]))
        file.flush()
        os.fsync(file.fileno())
    return f"{folder.name}/{target.name}"
