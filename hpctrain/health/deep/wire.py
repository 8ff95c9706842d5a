"""The conductor's line to its nodes (adapter over sockets and multiprocessing.connection).

Nodes connect before they check anything and prove that they know the run's secret (an HMAC challenge in both directions,
from the standard library). Messages are JSON, never pickles. A lost connection is a lost node: that of a process that died
closes at once, that of a machine without power when the kernel's keep-alive gives it up, after about a minute.
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any

_LARGEST_BYTES = 2**20
_CONNECT_S = 60.0

Message = dict[str, Any]


class Hall:
    """The conductor's side: who is here, and what they say.

    Attributes:
        port: that nodes connect to.
        hellos: first message of every node that came, and its ``address``.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._socket = socket.create_server(("", 0))
        self.port: int = self._socket.getsockname()[1]
        self.hellos: dict[str, Message] = {}
        self._lines: dict[str, Connection] = {}
        self._heard: queue.Queue[tuple[str, Message | None]] = queue.Queue()
        threading.Thread(target=self._accept, daemon=True).start()

    def hear(self, timeout_s: float) -> tuple[str, Message | None] | None:
        """The next message and who sent it; a message of None says that this node is gone. None after the timeout."""
        try:
            return self._heard.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def say(self, node: str, message: Message) -> bool:
        """Send to a node; False if it is gone."""
        try:
            self._lines[node].send_bytes(json.dumps(message).encode())
        except (OSError, KeyError, ValueError):
            return False
        return True

    def _accept(self) -> None:
        while True:
            try:
                found, address = self._socket.accept()
            except OSError:
                return
            # In a thread of its own: a stranger that connects and stays silent holds nobody up.
            threading.Thread(target=self._attend, args=(found, address[0]), daemon=True).start()

    def _attend(self, found: socket.socket, address: str) -> None:
        _keep_alive(found)
        line = Connection(found.detach())
        name = ""
        with contextlib.suppress(OSError, EOFError, ValueError, KeyError, AuthenticationError):
            deliver_challenge(line, self._secret)
            answer_challenge(line, self._secret)
            hello = _receive(line)
            name = str(hello["node"])
            self.hellos[name] = {**hello, "address": address}
            self._lines[name] = line
            self._heard.put((name, hello))
            while True:
                self._heard.put((name, _receive(line)))
        if name:
            self._heard.put((name, None))


class Line:
    """A node's side.

    Attributes:
        address: under which the conductor's host sees this node.
    """

    def __init__(self, host: str, port: int, secret: bytes) -> None:
        until = time.monotonic() + _CONNECT_S
        while True:
            try:
                found = socket.create_connection((host, port), timeout=10)
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.5)
        found.settimeout(None)
        _keep_alive(found)
        self.address: str = found.getsockname()[0]
        self._line = Connection(found.detach())
        answer_challenge(self._line, secret)
        deliver_challenge(self._line, secret)

    def say(self, message: Message) -> None:
        """Send to the conductor. Raises OSError when it is gone."""
        self._line.send_bytes(json.dumps(message).encode())

    def hear(self) -> Message | None:
        """The next message; None when the conductor is gone."""
        try:
            return _receive(self._line)
        except (OSError, EOFError, ValueError):
            return None


def _keep_alive(found: socket.socket) -> None:
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        found.setsockopt(socket.IPPROTO_TCP, option, value)


def _receive(line: Connection) -> Message:
    message = json.loads(line.recv_bytes(_LARGEST_BYTES))
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message
