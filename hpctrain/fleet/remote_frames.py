"""What a command that runs on another machine sends back over one stream of bytes (pure).

After whatever the login shell there may print comes one line that begins with :data:`MAGIC` and says protocol and version;
after it come frames: a length of four bytes, then a JSON object. Keys of a frame:

``items``
    ``[[1 or 2, text], ...]``: what was printed on standard output (1) and standard error (2), in order.
``at``
    what has changed of the position after these items; all of it, merged with :func:`merge`, is what the command must be
    given to go on there. Items and position travel in one frame, so that a connection that breaks loses both or none.
``exit``
    the exit code; the last frame.
``alive``
    nothing else was to be said for a while.

Answers to a question that is no command have keys of their own.
"""

from __future__ import annotations

import json
import struct
from typing import Any

PROTOCOL = 1
MAGIC = b"\x1ehpctrain-remote "
NOISE_BYTES = 64 * 1024
"""So much may come before the line with :data:`MAGIC`."""
LONGEST_FRAME_BYTES = 256 * 2**20
_LENGTH = struct.Struct(">I")

Frame = dict[str, Any]
Items = list[tuple[int, str]]


class GarbledError(ValueError):
    """What arrived is not what this protocol sends."""


def hello(version: str) -> bytes:
    """The first line."""
    return b"\n" + MAGIC + json.dumps({"protocol": PROTOCOL, "version": version}).encode() + b"\n"


def pack(frame: Frame) -> bytes:
    """One frame."""
    data = json.dumps(frame, separators=(",", ":")).encode()
    return _LENGTH.pack(len(data)) + data


def merge(position: Frame, changes: Frame) -> None:
    """Bring a position up to date: mappings merge, lists grow, anything else replaces."""
    for key, value in changes.items():
        known = position.get(key)
        if isinstance(known, dict) and isinstance(value, dict):
            merge(known, value)
        elif isinstance(known, list) and isinstance(value, list) and key in GROWING:
            known.extend(value)
        else:
            position[key] = value


GROWING = frozenset({"events"})
"""Keys of a position whose lists grow; any other list is one value."""


class Reader:
    """Takes the stream in pieces of any size.

    Attributes:
        greeting: the first line's object; None before it.
        noise: what came before it.
    """

    def __init__(self) -> None:
        self.greeting: Frame | None = None
        self.noise = b""
        self._data = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that are complete now.

        Raises:
            GarbledError: this is not the protocol.
        """
        self._data += chunk
        if self.greeting is None and not self._greet():
            return []
        frames = []
        while len(self._data) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data)
            if length > LONGEST_FRAME_BYTES:
                raise GarbledError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._data) < end:
                break
            frames.append(_object(bytes(self._data[_LENGTH.size:end])))
            del self._data[:end]
        return frames

    def _greet(self) -> bool:
        start = self._data.find(MAGIC)
        end = self._data.find(b"\n", start) if start >= 0 else -1
        if end < 0:
            self.noise = bytes(self._data[:NOISE_BYTES])
            if len(self._data) > NOISE_BYTES:
                raise GarbledError("something else than hpctrain answers")
            return False
        self.noise = bytes(self._data[:start])
        self.greeting = _object(bytes(self._data[start + len(MAGIC):end]))
        del self._data[:end + 1]
        return True


def _object(data: bytes) -> Frame:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise GarbledError(str(error)) from None
    if not isinstance(value, dict):
        raise GarbledError("not an object")
    return value
