"""A support bundle: a private tar.gz that is written whole or not at all (adapter over the file system)."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpctrain.files import PRIVATE_FILE, storage_errors, sync_dir


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a bundle."""

    path: str
    data: bytes


def write_bundle(path: Path, items: Iterable[Item], when: float) -> int:
    """Write the files into a new archive that only we may read; its length in bytes.

    Args:
        when: the time that all files get, in seconds since the epoch.

    Raises:
        StorageError: it cannot be written, or is there already; nothing is left behind.
    """
    top = path.name.removesuffix(".gz").removesuffix(".tar")
    with storage_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                with tarfile.open(fileobj=file, mode="w:gz") as tar:
                    for item in items:
                        entry = tarfile.TarInfo(f"{top}/{item.path}")
                        entry.size, entry.mode, entry.mtime = len(item.data), PRIVATE_FILE, int(when)
                        tar.addfile(entry, io.BytesIO(item.data))
                file.flush()
                os.fchmod(file.fileno(), PRIVATE_FILE)
                os.fsync(file.fileno())
            os.link(name, path)  # unlike a rename, never over another file
        finally:
            with suppress(OSError):
                Path(name).unlink()
        sync_dir(path.parent)
    return path.stat().st_size


def bundle_name(now: float) -> str:
    """A name for a bundle made now."""
    return time.strftime("hpctrain-bundle-%Y%m%d-%H%M%S.tar.gz", time.localtime(now))
