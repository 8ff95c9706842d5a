"""The beginning and the end of a stream, in bounded memory (pure)."""

from __future__ import annotations


class Kept:
    """Takes any amount of bytes and keeps the first half and the last half of a limit.

    Args:
        limit_bytes: how much is kept; the memory used is at most one and a half times that, and the last chunk.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._head_limit = (limit_bytes + 1) // 2
        self._tail_limit = limit_bytes // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    @property
    def dropped_bytes(self) -> int:
        """How much was not kept."""
        return self._dropped + max(0, len(self._tail) - self._tail_limit)

    def add(self, chunk: bytes) -> None:
        """Take the next bytes."""
        room = self._head_limit - len(self._head)
        if room:
            self._head += chunk[:room]
            chunk = chunk[room:]
        self._tail += chunk
        # Not at every chunk: each time moves what stays.
        if len(self._tail) > 2 * self._tail_limit:
            self._trim()

    def value(self) -> bytes:
        """What was kept; where something was dropped, a line between the halves says how much."""
        self._trim()
        gap = f"\n[... {self._dropped} bytes left out ...]\n".encode() if self._dropped else b""
        return bytes(self._head + gap + self._tail)

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_limit
        if excess > 0:
            del self._tail[:excess]
            self._dropped += excess
