"""A connection to the keeper of the RAM tier (adapter over its socket and its process)."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import socket
import sys
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.checkpoint import keeper_wire
from hpctrain.checkpoint.keeper import KINDS
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.errors import StorageError
from hpctrain.files import create_atomic

ANSWER_S = 10.0
"""A keeper that does not answer for so long counts as gone: training must not wait for it."""

SECRET_BYTES = 32
_REMOVE = "remove the file; a new one is made"


class KeeperClient:
    """Requests, one at a time.

    Args:
        secret: of the job.
        node: name of this node, where several share a host.

    Raises:
        WireError: there is no keeper, or it and we do not trust each other.
    """

    def __init__(self, secret: bytes, node: str = "", *, timeout_s: float = ANSWER_S) -> None:
        self._timeout_s = timeout_s
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.settimeout(timeout_s)
        try:
            try:
                self._sock.connect(keeper_wire.address(secret, node))
            except OSError as error:
                raise WireError(f"there is no keeper: {error.strerror or error}") from error
            keeper_wire.answer_challenge(self._sock, secret)
        except BaseException:
            self._sock.close()
            raise

    def request(self, op: str, *, extra_s: float = 0.0, **fields: Any) -> dict[str, Any]:
        """Ask for something that brings no descriptor; see :meth:`request_handle`."""
        answer, handle = self.request_handle(op, extra_s=extra_s, **fields)
        if handle is not None:
            os.close(handle)
        return answer

    def request_handle(self, op: str, *, extra_s: float = 0.0, **fields: Any) -> tuple[dict[str, Any], int | None]:
        """Ask; returns the answer and the descriptor that came with it.

        Args:
            extra_s: the answer may take so much longer than usual.

        Raises:
            WireError: the keeper is gone or does not answer; the connection is closed.
            RefusedError: it answers no; see :mod:`hpctrain.checkpoint.keeper_slots` for what kinds there are.
        """
        try:
            try:
                self._sock.settimeout(self._timeout_s + extra_s)
            except OSError as error:
                raise WireError("the connection to the keeper is closed") from error
            keeper_wire.send(self._sock, {"op": op, **fields})
            answer, handle = keeper_wire.receive(self._sock)
        except BaseException:
            self.close()  # an answer that comes later must not be taken for that to another question
            raise
        if "error" in answer:
            raise KINDS[answer["kind"]](answer["error"])
        return answer, handle

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


def start_keeper(
    secret: bytes, node: str = "", *, until_pid: int | None = None, idle_s: float | None = None, ready_s: float = 20.0
) -> process.Popen[bytes]:
    """Start a keeper process of its own session; returns when it can be connected to.

    If another one serves this job and node already, the new one ends at once and all is well.

    Raises:
        WireError: it did not start.
    """
    options = ["--until-pid", str(until_pid)] if until_pid is not None else []
    options += ["--idle-s", str(idle_s)] if idle_s is not None else []
    return _start("hpctrain.checkpoint.keeper_main", secret, ["--node", node, *options], ready_s)


def start_writer(secret: bytes, node: str = "", *, ready_s: float = 20.0) -> process.Popen[bytes]:
    """Start a process that makes checkpoints in memory durable; it ends when the keeper does.

    Raises:
        WireError: it did not start.
    """
    return _start("hpctrain.checkpoint.writer_main", secret, ["--node", node], ready_s)


def _start(module: str, secret: bytes, options: list[str], ready_s: float) -> process.Popen[bytes]:
    argv = [sys.executable, "-m", module, *options]
    child = process.start(argv, stdin=process.PIPE, stdout=process.PIPE, stderr=process.DEVNULL)
    assert child.stdin is not None and child.stdout is not None  # noqa: S101 - for the type checker: both are pipes
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(secret.hex().encode() + b"\n")
        child.stdin.close()
    # It answers in milliseconds; a wait without an end would hang training on a node that thrashes.
    ready, _, _ = select.select([child.stdout], [], [], ready_s)
    line = child.stdout.readline() if ready else b""
    child.stdout.close()
    if not line:
        process.kill_group(child)
        child.wait()
        raise WireError(f"python -m {module} did not start")
    return child


def make_secret() -> bytes:
    """A new secret for a job."""
    return secrets.token_bytes(SECRET_BYTES)


def shared_secret(path: Path) -> bytes:
    """The secret in a private file, made by whoever comes first.

    Raises:
        StorageError: it cannot be made or read, others can read it, or it is none.
    """
    with contextlib.suppress(FileExistsError):
        create_atomic(path, make_secret().hex() + "\n")
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """The secret in a private file.

    Raises:
        StorageError: it cannot be read, is not ours alone, or is none.
    """
    try:
        # Looked at through the descriptor: a name could mean another file a moment later.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(handle, encoding="ascii") as file:
            status = os.fstat(handle)
            if status.st_uid != os.getuid() or status.st_mode & 0o077:
                raise StorageError("others can read or write the secret of the RAM tier", where=str(path), hint=_REMOVE)
            secret = bytes.fromhex(file.read(4 * SECRET_BYTES).strip())
    except OSError as error:
        raise StorageError(f"the secret of the RAM tier cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError:
        secret = b""
    if len(secret) != SECRET_BYTES:
        raise StorageError("this is no secret of the RAM tier", where=str(path), hint=_REMOVE)
    return secret
