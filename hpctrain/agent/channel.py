"""Messages between the coordinator and the agents: JSON lines over TCP between ends that know the job's secret (adapter).

Both ends prove the secret with the handshake of :mod:`hpctrain.checkpoint.peer_wire`, for a purpose of its own; it never
crosses the network. Messages are neither encrypted nor signed afterwards, like the collectives beside them: who can change
packets between two nodes of a job is outside the threat model.

No call here waits, but for :func:`dial`: the loops of both ends have ranks to look after.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from hpctrain.checkpoint import peer_wire
from hpctrain.checkpoint.keeper_wire import WireError

PURPOSE = "agent"
HANDSHAKE = peer_wire.Patience(stall_s=5.0, extra_s=5.0)
LIMIT_BYTES = 64 * 2**20
"""More than this unsent or unread means that the other end is not what it should be."""
MOST_STRANGERS = 64
"""Handshakes under way at a time; what comes beyond is hung up on."""
_CHUNK_BYTES = 256 * 1024

Message = Mapping[str, Any]


class Line:
    """One end of an authenticated connection.

    Attributes:
        closed: the other end is gone; messages that came before can still be taken.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.closed = False
        self._sock = sock
        self._out = bytearray()
        self._in = bytearray()
        self._sending = threading.Lock()
        sock.setblocking(False)

    def fileno(self) -> int:
        """The socket's descriptor, for ``select``."""
        return self._sock.fileno()

    @property
    def is_waiting(self) -> bool:
        """There is something left to send."""
        return bool(self._out) and not self.closed

    def send(self, message: Message) -> None:
        """Send as much as the network takes now; the rest goes with :meth:`push`. Nothing happens on a closed line."""
        data = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._out += data
            too_much = len(self._out) > LIMIT_BYTES
        if too_much:
            self.close()
        self.push()

    def push(self) -> None:
        """Send more of what is left; several threads may."""
        with self._sending:
            self._push()

    def _push(self) -> None:
        while self._out and not self.closed:
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            del self._out[:sent]

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come; lines that are no JSON objects close the line."""
        self._read()
        *lines, rest = bytes(self._in).split(b"\n")
        self._in = bytearray(rest)
        messages = []
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.close()
                break
            messages.append(message)
        return messages

    def _read(self) -> None:
        while not self.closed:
            try:
                data = self._sock.recv(_CHUNK_BYTES)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            self._in += data
            if not data or len(self._in) > LIMIT_BYTES:
                self.close()

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


class Hub:
    """Where agents call; handshakes are done in threads, so that a silent stranger holds up nobody.

    Args:
        addr: address of a network interface to listen on; no other is listened on.

    Raises:
        WireError: nothing can listen there.
    """

    def __init__(self, secret: bytes, addr: str) -> None:
        self._secret = secret
        try:
            self._listener = socket.create_server((addr, 0), backlog=1024)
        except OSError as error:
            raise WireError(f"cannot listen on {addr}: {error.strerror or error}") from error
        self.addr, self.port = addr, int(self._listener.getsockname()[1])
        self._arrived: deque[Line] = deque()
        self._busy = threading.Semaphore(MOST_STRANGERS)
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        threading.Thread(target=self._accept, name="hub", daemon=True).start()

    def fileno(self) -> int:
        """Becomes readable when somebody has arrived."""
        return self._wake_read

    def arrived(self) -> list[Line]:
        """Lines of those who have proved that they belong to the job since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        found = []
        while self._arrived:
            found.append(self._arrived.popleft())
        return found

    def close(self) -> None:
        """Listen no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                if self._listener.fileno() < 0:
                    return
                time.sleep(0.1)  # out of descriptors, perhaps
                continue
            if not self._busy.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(target=self._greet, args=(sock,), name="greet", daemon=True).start()

    def _greet(self, sock: socket.socket) -> None:
        try:
            peer_wire.challenge(peer_wire.Line(sock, HANDSHAKE), self._secret, PURPOSE)
        except WireError:
            sock.close()
            return
        finally:
            self._busy.release()
        self._arrived.append(Line(sock))
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"\0")


def dial(addr: str, port: int, secret: bytes, timeout_s: float) -> Line:
    """Call a hub; waits for the handshake.

    Raises:
        WireError: nobody is there, or they and we do not trust each other.
    """
    try:
        sock = socket.create_connection((addr, port), timeout=timeout_s)
    except OSError as error:
        raise WireError(f"no answer from {addr}:{port}: {error.strerror or error}") from error
    try:
        peer_wire.answer_challenge(peer_wire.Line(sock, HANDSHAKE), secret, PURPOSE)
    except BaseException:
        sock.close()
        raise
    return Line(sock)
