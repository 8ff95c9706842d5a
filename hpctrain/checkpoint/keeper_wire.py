"""What passes between the keeper of the RAM tier and its clients (adapter over Unix sockets).

A message is four bytes of length and JSON, possibly with a descriptor beside it. The address lies in Linux' abstract
namespace: no file is left behind, however the keeper ends. Its name is derived from the job's secret, both ends prove that
they know the secret without sending it, and both refuse a peer of another user.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import socket
import struct
from typing import Any

LIMIT_BYTES = 256 * 1024 * 1024
"""Longest message: the lists of shards that a writer reports are long, but not that long."""

_LENGTH = struct.Struct("<I")
_PEER = struct.Struct("3i")
_NONCE_BYTES = 16


class WireError(Exception):
    """The other end is gone, or does not speak our language."""


def address(secret: bytes, node: str = "") -> str:
    """Where the keeper of a job listens on a node; several nodes of a test may share one host."""
    digest = hashlib.sha256(b"address\0" + secret + b"\0" + node.encode()).hexdigest()
    return f"\0hpctrain-keeper-{os.getuid()}-{digest[:24]}"


def peer(sock: socket.socket) -> tuple[int, int]:
    """Process and user id at the other end; the process is 0 if it is in a namespace that we cannot see into."""
    pid, uid, _ = _PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid


def check_user(sock: socket.socket) -> None:
    """Refuse another user.

    Raises:
        WireError: it is one.
    """
    uid = peer(sock)[1]
    if uid != os.getuid():
        raise WireError(f"the other end belongs to user id {uid}, not to {os.getuid()}")


def send(sock: socket.socket, message: dict[str, Any], handle: int | None = None) -> None:
    """Send one message, and a copy of a descriptor.

    Raises:
        WireError: the other end is gone or does not read.
    """
    text = json.dumps(message, separators=(",", ":")).encode()
    data = _LENGTH.pack(len(text)) + text
    try:
        sent = socket.send_fds(sock, [data], [handle]) if handle is not None else 0
        sock.sendall(data[sent:])
    except OSError as error:
        raise WireError(_reason(error)) from error


def receive(sock: socket.socket, limit_bytes: int = LIMIT_BYTES) -> tuple[dict[str, Any], int | None]:
    """The next message and the descriptor beside it, which now belongs to the caller.

    Args:
        limit_bytes: refuse longer ones, before any of it is read.

    Raises:
        WireError: the other end is gone, silent for too long, or sends something else.
    """
    handles: list[int] = []
    try:
        size = _LENGTH.unpack(_read(sock, _LENGTH.size, handles))[0]
        if size > limit_bytes:
            raise WireError(f"a message of {size} bytes is announced")
        message = json.loads(_read(sock, size, handles))
        if not isinstance(message, dict) or len(handles) > 1:
            raise WireError("a message is not an object with one descriptor at most")
        return message, handles.pop() if handles else None
    except OSError as error:
        raise WireError(_reason(error)) from error
    except ValueError as error:
        raise WireError("a message is not JSON") from error
    finally:
        for handle in handles:  # only after an error
            with contextlib.suppress(OSError):
                os.close(handle)


def challenge(sock: socket.socket, secret: bytes) -> None:
    """The keeper's half of the handshake.

    Raises:
        WireError: the client does not know the secret, or is another user.
    """
    check_user(sock)
    mine = secrets.token_bytes(_NONCE_BYTES)
    send(sock, {"nonce": mine.hex()})
    answer, _ = receive(sock)
    theirs = str(answer.get("nonce", ""))
    if not hmac.compare_digest(str(answer.get("proof", "")), _proof(secret, "client", mine.hex(), theirs)):
        send(sock, {"error": "the secret is not this job's", "kind": "secret"})
        raise WireError("a client does not know the secret")
    send(sock, {"proof": _proof(secret, "keeper", mine.hex(), theirs)})


def answer_challenge(sock: socket.socket, secret: bytes) -> None:
    """The client's half of the handshake.

    Raises:
        WireError: the keeper refuses us, does not know the secret itself, or is another user.
    """
    check_user(sock)
    theirs = str(receive(sock)[0].get("nonce", ""))
    mine = secrets.token_bytes(_NONCE_BYTES).hex()
    send(sock, {"nonce": mine, "proof": _proof(secret, "client", theirs, mine)})
    answer, _ = receive(sock)
    if "error" in answer:
        raise WireError(f"the keeper refuses: {answer['error']}")
    if not hmac.compare_digest(str(answer.get("proof", "")), _proof(secret, "keeper", theirs, mine)):
        raise WireError("the keeper does not know the secret")


def say_once(word: str) -> None:
    """One line, then nothing more: whoever started us may be gone when we would write next."""
    with contextlib.suppress(OSError):
        os.write(1, f"{word}\n".encode())
    null = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1):
        os.dup2(null, handle)
    os.close(null)


def _proof(secret: bytes, role: str, first: str, second: str) -> str:
    return hmac.new(secret, f"{role}\0{first}\0{second}".encode(), hashlib.sha256).hexdigest()


def _read(sock: socket.socket, size: int, handles: list[int]) -> bytes:
    parts, missing = [], size
    while missing:
        data, received, _, _ = socket.recv_fds(sock, min(missing, 1 << 20), 4)
        for handle in received:
            os.set_inheritable(handle, False)
            handles.append(handle)
        if not data:
            raise WireError("the other end is gone")
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)


def _reason(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "the other end does not answer in time"
    if isinstance(error, ConnectionError):
        return "the other end is gone"
    return error.strerror or str(error)
