"""What passes between two nodes that keep copies for each other (adapter over TCP).

::

    sender                                       receiver
      <---------------- nonce ---------------------
      ------- nonce, proof of the secret --------->
      <--------- proof of the secret --------------
      --- copy: rank, header, what must stay ----->   joins its keeper's store for copies, gets a block
      <---------------- go, or no -----------------
      ===== the block, without its header ========>   into the block's memory, hashed on the way
      <------------ kept, or what is wrong --------   committed, with the sender's hashes

Messages are those of :mod:`hpctrain.checkpoint.keeper_wire`. The secret never crosses the network, and a proof is of no use
to another connection. The bytes of the block are neither encrypted nor signed: whoever can change packets on the way between
two nodes of a job can change what its collectives exchange as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpctrain.checkpoint import keeper_wire
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.errors import StorageError

MESSAGE_BYTES = 64 * 1024
"""Longest message: a stranger must not make us wait for, or hold, more."""

CHUNK_BYTES = 1024 * 1024
_NONCE_BYTES = 16


class PeerError(StorageError):
    """A part could not be brought to the peer node; what it held before is still there."""

    hint = "it is tried again with the next save; the checkpoints in this node's own memory are not concerned"


class PeerOvertakenError(PeerError):
    """A newer incarnation of the ranks is at work: there is no use in another try."""

    hint = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for the other end of a transfer.

    Attributes:
        stall_s: without a single byte.
        slowest_bytes_per_s: rate below which a transfer is given up, even though it moves.
        extra_s: on top, for what does not depend on the size.
    """

    stall_s: float = 20.0
    slowest_bytes_per_s: float = 16 * 1024 * 1024
    extra_s: float = 30.0

    def limit_s(self, size_bytes: int) -> float:
        """Longest time for a transfer of this size."""
        return self.extra_s + size_bytes / self.slowest_bytes_per_s


class Line:
    """One end of a connection; every wait on it ends.

    Args:
        patience: see :class:`Patience`; the whole time counts from :meth:`expect`.
    """

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock, self._patience = sock, patience
        self._deadline = time.monotonic() + patience.limit_s(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def expect(self, size_bytes: int) -> None:
        """From now on the time is that for so many bytes."""
        self._deadline = time.monotonic() + self._patience.limit_s(size_bytes)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message. Raises WireError."""
        self._sock.settimeout(self._left_s())
        keeper_wire.send(self._sock, message)

    def receive(self, *, has_to_work: bool = False) -> dict[str, Any]:
        """The next message.

        Args:
            has_to_work: the other end allocates memory first, so that it may be silent for all the time that is left.

        Raises:
            WireError: the other end is gone, or does not answer.
        """
        self._sock.settimeout(self._left_s(stalls=not has_to_work))
        message, handle = keeper_wire.receive(self._sock, MESSAGE_BYTES)
        if handle is not None:  # TCP carries none
            os.close(handle)
        return message

    def send_block(self, handle: int, start: int, end: int) -> None:
        """Send a part of a file in memory; the kernel takes the pages as they are.

        Raises:
            WireError: the other end is gone, or takes nothing, or too little.
        """
        self._sock.setblocking(False)
        poller = select.poll()
        poller.register(self._sock, select.POLLOUT)
        while start < end:
            if not poller.poll(self._left_s() * 1000):
                raise WireError(self._too_slow())
            try:
                sent = os.sendfile(self._sock.fileno(), handle, start, min(CHUNK_BYTES, end - start))
            except BlockingIOError:
                continue
            except OSError as error:
                raise WireError("the other end is gone") from error
            if not sent:
                raise WireError("the block is shorter than its header says")
            start += sent

    def receive_block(self, view: memoryview, start: int, end: int, arrived: Callable[[int], None] = lambda _: None
                      ) -> None:
        """Fill a part of a block.

        Args:
            arrived: called with the end of what is there now, as often as something has come.

        Raises:
            WireError: the other end is gone, or sends nothing, or too little.
        """
        while start < end:
            self._sock.settimeout(self._left_s())
            try:
                with view[start:min(start + CHUNK_BYTES, end)] as target:
                    count = self._sock.recv_into(target)
            except TimeoutError:
                raise WireError(self._too_slow()) from None
            except OSError as error:
                raise WireError("the other end is gone") from error
            if not count:
                raise WireError("the other end is gone")
            start += count
            arrived(start)

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _left_s(self, *, stalls: bool = True) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise WireError(self._too_slow())
        return min(left, self._patience.stall_s) if stalls else left

    def _too_slow(self) -> str:
        return (f"nothing moves for {self._patience.stall_s:g} s, or less than "
                f"{self._patience.slowest_bytes_per_s / 1e6:.4g} MB/s")


def challenge(line: Line, secret: bytes, purpose: str = "peer") -> None:
    """The receiver's half of the handshake. Raises WireError: the other end does not know the secret.

    Args:
        purpose: what the connection is for; a proof for one purpose is of no use for another.
    """
    mine = secrets.token_hex(_NONCE_BYTES)
    line.send({"nonce": mine})
    answer = line.receive()
    theirs = str(answer.get("nonce", ""))
    if not hmac.compare_digest(str(answer.get("proof", "")), _proof(secret, f"{purpose} sender", mine, theirs)):
        with contextlib.suppress(WireError):
            line.send({"error": "the secret is not this job's", "kind": "secret"})
        raise WireError("the sender does not know the secret")
    line.send({"proof": _proof(secret, f"{purpose} receiver", mine, theirs)})


def answer_challenge(line: Line, secret: bytes, purpose: str = "peer") -> None:
    """The sender's half. Raises WireError: the other end refuses us, or does not know the secret itself."""
    theirs = str(line.receive().get("nonce", ""))
    mine = secrets.token_hex(_NONCE_BYTES)
    line.send({"nonce": mine, "proof": _proof(secret, f"{purpose} sender", theirs, mine)})
    answer = line.receive()
    if "error" in answer:
        raise WireError(f"it refuses: {answer['error']}")
    if not hmac.compare_digest(str(answer.get("proof", "")), _proof(secret, f"{purpose} receiver", theirs, mine)):
        raise WireError("it does not know the secret")


def _proof(secret: bytes, role: str, first: str, second: str) -> str:
    return hmac.new(secret, f"{role}\0{first}\0{second}".encode(), hashlib.sha256).hexdigest()
