"""Messages between the agent and its warm process: JSON objects with descriptors beside them (adapter over a socket).

The socket is one of a pair that the warm process inherits: it has no name that anybody else could connect to.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import Any

_LENGTH = struct.Struct("!I")
_MOST_FDS = 4


class Wire:
    """One end. Not safe for two threads that send, or two that receive, at once."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """The socket's descriptor, to wait for."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        """Send one message; the receiver gets copies of the descriptors.

        Raises:
            OSError: the other end is gone.
        """
        data = json.dumps(message).encode()
        socket.send_fds(self._socket, [_LENGTH.pack(len(data))], list(fds))
        self._socket.sendall(data)

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors; waits for it. None when the other end is gone."""
        fds: list[int] = []
        try:
            header, fds, _, _ = socket.recv_fds(self._socket, _LENGTH.size, _MOST_FDS)
            header += self._exactly(_LENGTH.size - len(header)) if header else b""
            data = self._exactly(_LENGTH.unpack(header)[0])
        except (OSError, EOFError, struct.error):
            for fd in fds:
                os.close(fd)
            return None
        for fd in fds:
            os.set_inheritable(fd, False)
        message: dict[str, Any] = json.loads(data)
        return message, fds

    def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(OSError):
            self._socket.close()

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data
