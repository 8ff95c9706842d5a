"""What is sent to a command on another machine: the request, files, an interrupt (adapter over the file system)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hpctrain.errors import StorageError
from hpctrain.fleet.remote_frames import Frame
from hpctrain.fleet.remote_parcel import Item, Parcel

_CHUNK = 2**16


class Feed(io.RawIOBase):
    """What the other end reads: the request, files, then nothing until the end, or an interrupt.

    Standard input that stays open tells the other end that somebody is there.

    Args:
        head: the request.
        files: (path, size) of what follows it; a file that has become shorter is filled up, and found out by its hash.
    """

    def __init__(self, head: bytes, files: Sequence[tuple[Path, int]]) -> None:
        super().__init__()
        self._ready = threading.Condition()
        self._pieces: Iterator[bytes] = self._all(head, files)
        self._extra: deque[bytes] = deque()
        self._sent = self._over = self._interrupted = False

    def read(self, size: int = -1) -> bytes:  # noqa: ARG002 - pieces have the size they have
        """The next piece; waits for one; empty at the end."""
        piece = next(self._pieces, None)
        if piece is not None:
            return piece
        with self._ready:
            while not self._extra and not self._over:
                self._ready.wait()
            return self._extra.popleft() if self._extra else b""

    def interrupt(self) -> bool:
        """Tell the other end of a Ctrl-C; false if it was told before."""
        with self._ready:
            first, self._interrupted = not self._interrupted, True
            if first:
                self._extra.append(b"i")
                self._ready.notify_all()
            return first

    def close(self) -> None:
        """End it."""
        with self._ready:
            self._over = True
            self._ready.notify_all()

    @staticmethod
    def _all(head: bytes, files: Sequence[tuple[Path, int]]) -> Iterator[bytes]:
        yield head
        for path, size_bytes in files:
            left = size_bytes
            with contextlib.suppress(OSError), path.open("rb") as file:
                while left and (chunk := file.read(min(_CHUNK, left))):
                    left -= len(chunk)
                    yield chunk
            while left:
                filler = bytes(min(_CHUNK, left))
                left -= len(filler)
                yield filler


def object_name(item: Item) -> str:
    """The name of a file's content: its SHA-256, and whether it may be executed.

    Raises:
        StorageError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with item.path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror}", where=str(item.path)) from None
    return digest.hexdigest() + ("x" if item.executable else "")


def to_send(parcel: Parcel, names: Mapping[Path, str], wanted: set[str]) -> tuple[Item, ...]:
    """One file for each content that is wanted."""
    by_name = {names[item.path]: item for item in parcel.items}
    return tuple(item for name, item in sorted(by_name.items()) if name in wanted)


def tree_of(parcel: Parcel, names: Mapping[Path, str]) -> Frame:
    """What lies where: objects; without names, for a dry run, what is in the recipes, and nothing in the other files."""
    files: dict[str, str] = {}
    for item in parcel.items:
        text = names.get(item.path)
        if text is None:
            text = item.path.read_text(encoding="utf-8", errors="replace") if item.is_recipe else ""
        files[_there(item.path)] = text
    return {"files": files, "folders": [_there(folder) for folder in parcel.folders], "folder": _there(parcel.folder)}


def _there(path: Path) -> str:
    """A path below the tree."""
    return path.as_posix().lstrip("/")
