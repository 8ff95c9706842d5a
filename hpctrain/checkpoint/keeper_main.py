"""The keeper's process: ``python -m hpctrain.checkpoint.keeper_main`` (entry point).

Reads the job's secret from standard input, says ``ready`` on standard output, and serves until the process it belongs to
ends, or nobody has been connected for a while. It holds the memory by descriptors only: when it ends, for whatever reason,
nothing is left behind.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import socket
import sys
import threading
import time

from hpctrain.checkpoint import keeper_wire
from hpctrain.checkpoint.keeper import Keeper
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.memory_budget_probe import read_limits

HANDSHAKE_S = 10.0
_TICK_S = 1.0
_SWITCH_S = 0.0005
"""A thread that computes lets one that answers a rank have its turn after this; Python's own 5 ms are as long as a save."""


def main(argv: list[str] | None = None) -> int:
    """Serve; returns the exit code. A second keeper of the same job and node ends at once, with 0."""
    parser = argparse.ArgumentParser(prog="hpctrain-keeper", description="Keeps a node's checkpoints in memory.")
    parser.add_argument("--node", default="", help="name of the node, where several share a host")
    parser.add_argument("--until-pid", type=int, help="end when this process ends")
    parser.add_argument("--idle-s", type=float, help="end when nobody has been connected for so many seconds")
    options = parser.parse_args(argv)
    secret = bytes.fromhex(sys.stdin.readline().strip())
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(keeper_wire.address(secret, options.node))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        keeper_wire.say_once("there is one")
        return 0
    listener.listen(128)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.setswitchinterval(_SWITCH_S)
    keeper_wire.say_once("ready")
    Server(listener, secret, options.until_pid, options.idle_s).serve()
    return 0


class Server:
    """Accepts connections and watches for its own end."""

    def __init__(self, listener: socket.socket, secret: bytes, until_pid: int | None, idle_s: float | None) -> None:
        self._listener, self._secret, self._idle_s = listener, secret, idle_s
        self._until_pid, self._until = until_pid, _pidfd(until_pid)
        self._keeper = Keeper(read_limits)
        self._clients: set[int] = set()
        self._count = 0

    def serve(self) -> None:
        """Until the end."""
        threading.Thread(target=self._keeper.seal_forever, daemon=True).start()
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        if self._until is not None:
            poller.register(self._until, select.POLLIN)
        idle_since = time.monotonic()
        while True:
            ready = [handle for handle, _ in poller.poll(_TICK_S * 1000)]
            if self._owner_is_gone(ready):
                return
            if self._listener.fileno() in ready:
                sock, _ = self._listener.accept()
                self._count += 1
                self._clients.add(self._count)
                threading.Thread(target=self._attend, args=(sock, self._count), daemon=True).start()
            if self._clients:
                idle_since = time.monotonic()
            elif self._idle_s is not None and time.monotonic() - idle_since > self._idle_s:
                return

    def _owner_is_gone(self, ready: list[int]) -> bool:
        if self._until is not None:
            return self._until in ready
        if self._until_pid is None:
            return False
        try:
            os.kill(self._until_pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _attend(self, sock: socket.socket, connection: int) -> None:
        process: int | None = None
        try:
            with sock:
                sock.settimeout(HANDSHAKE_S)
                # Children that a client forked hold its end of the socket open, too: its own death is what counts.
                process = _pidfd(keeper_wire.peer(sock)[0] or None)
                keeper_wire.challenge(sock, self._secret)
                while _wait(sock, process):
                    message, handle = keeper_wire.receive(sock)
                    if message.get("op") in ("take", "listening"):
                        self._clients.discard(connection)  # a writer alone is no reason to stay
                    if handle is not None:
                        os.close(handle)
                    answer, handle = self._keeper.handle(connection, message)
                    try:
                        keeper_wire.send(sock, answer, handle)
                    finally:
                        if handle is not None:
                            os.close(handle)
        except WireError:
            pass  # it is gone, or none of ours
        finally:
            if process is not None:
                os.close(process)
            self._keeper.leave(connection)
            self._clients.discard(connection)


def _wait(sock: socket.socket, process: int | None) -> bool:
    """Wait for a message; False when the client has died."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    if process is not None:
        poller.register(process, select.POLLIN)
    return process not in [handle for handle, _ in poller.poll()]


def _pidfd(pid: int | None) -> int | None:
    if pid is None or not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main())
