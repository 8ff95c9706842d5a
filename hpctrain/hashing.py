"""SHA-256 of files and what several of them are together; nothing is read twice (adapter over the file system).

A file's hash is kept under what the file *is* (inode, size, times), not under its name, so that a directory may be
renamed. Changing a file changes its times, and so leaves its old hash behind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.errors import StorageError
from hpctrain.files import PRIVATE_DIR, write_json_atomic

CACHE_DIR = ".hashes"
"""In the directory of all runs: hashes of what they started from."""
_CHUNK_BYTES = 8 * 2**20
_THREADS = 4
_SHA256 = re.compile(r"^[0-9a-f]{64}$")
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Hashed:
    """One file.

    Attributes:
        name: relative to the directory that was asked about.
        sha256: of its content, lower-case hex; "" where it was not read.
    """

    name: str
    size_bytes: int
    sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        """As records keep it."""
        return {"name": self.name, "size_bytes": self.size_bytes, "sha256": self.sha256}


class HashCache:
    """Hashes that are known already.

    Args:
        folder: where they are kept, such as ``<runs>/.hashes``; None keeps none. A cache that cannot be written costs
            time and nothing else.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def known(self, path: Path) -> str:
        """The hash, if the file was read before, or if the Hugging Face cache names it by its hash; else ""."""
        named = blob_hash(path)
        if named or self._folder is None:
            return named
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
            found = json.loads((self._folder / self._key(path)).read_text(encoding="utf-8")).get("sha256")
            return found if isinstance(found, str) and _SHA256.match(found) else ""
        return ""

    def hash(self, path: Path, progress: Progress | None = None) -> str:
        """The hash, read from the file if need be.

        Raises:
            OSError: it cannot be read.
        """
        known = self.known(path)
        if known:
            return known
        key = self._key(path)
        found = hash_file(path, progress)
        if self._folder is not None and self._key(path) == key:  # it was not written to meanwhile
            with contextlib.suppress(OSError, StorageError):
                self._folder.mkdir(mode=PRIVATE_DIR, exist_ok=True)
                write_json_atomic(self._folder / key, {"sha256": found, "path": str(path)}, durable=False)
        return found

    @staticmethod
    def _key(path: Path) -> str:
        status = path.stat()
        facts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:32] + ".json"


def hash_file(path: Path, progress: Progress | None = None) -> str:
    """SHA-256 of a file's content as lower-case hex.

    Args:
        progress: told the number of bytes of each piece, from the calling thread.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(_CHUNK_BYTES)
        view = memoryview(buffer)
        while count := file.readinto(buffer):
            digest.update(view[:count])
            if progress is not None:
                progress(count)
    return digest.hexdigest()


def hash_files(
    base: Path, names: Sequence[str], cache: HashCache, *, read: bool = True, progress: Progress | None = None
) -> list[Hashed]:
    """Hash files below a directory, several at a time; the GIL is free meanwhile.

    Args:
        read: False looks into the cache only; what is not there has no hash.
        progress: called from several threads.

    Raises:
        OSError: one cannot be read.
    """
    def one(name: str) -> Hashed:
        path = base / name
        return Hashed(name, path.stat().st_size, cache.hash(path, progress) if read else cache.known(path))

    if not read or len(names) < 2:
        return [one(name) for name in names]
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(one, names))


def together(files: Iterable[Hashed]) -> str:
    """One hash for several files: that of what ``sha256sum FILE... | sha256sum`` reads, names sorted by their bytes.

    "" if there are none, or if one of them has no hash.
    """
    ordered = sorted(files, key=lambda file: file.name.encode(errors="surrogateescape"))
    if not ordered or not all(file.sha256 for file in ordered):
        return ""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in ordered)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def hash_text(text: str | bytes) -> str:
    """SHA-256 of a text as lower-case hex."""
    return hashlib.sha256(text.encode(errors="surrogateescape") if isinstance(text, str) else text).hexdigest()


def blob_hash(path: Path) -> str:
    """The hash by which the Hugging Face cache names the blob that a file of a snapshot links to; else ""."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            target = path.resolve()
            if target.parent.name == "blobs" and _SHA256.match(target.name):
                return target.name
    return ""
