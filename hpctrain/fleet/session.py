"""What is done over one SSH connection: commands, and files in both directions (adapter over an open transport).

A command is a list of arguments; it is quoted once, for the shell that every SSH server puts between. What a command prints
is bytes, of which no more is kept in memory than was asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import select
import shlex
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from hpctrain.errors import NotFoundError, RemoteTimeoutError, StopRequested, StorageError, UnreachableError
from hpctrain.files import storage_errors, sync_dir
from hpctrain.fleet.kept import Kept
from hpctrain.fleet.target import SshTarget

DEFAULT_KEEP_BYTES = 8 * 2**20
NO_STATUS = -1
"""The return code of a command that a signal ended, or that was stopped from here: SSH gives none."""

_CHUNK = 2**16
_CHUNKS_AT_ONCE = 64  # then the clock and the other stream have their turn, whatever a command prints
_NO_FILE, _NOT_WRITTEN, _DAMAGED, _NOT_OWNED = 44, 73, 74, 77
# One line each, with nothing that a csh would take for its own: the user's login shell reads them first.
_AT_HOME = 'd=$1; case $d in "~/"*) d=$HOME/${d#??};; esac; '
_GET = _AT_HOME + f'[ -e "$d" ] || exit {_NO_FILE}; exec cat -- "$d"'
_PUT = (
    "umask 077; " + _AT_HOME + f't=$(mktemp -- "$(dirname -- "$d")/.hpctrain-put.XXXXXXXX") || exit {_NOT_WRITTEN}; '
    "trap 'rm -f -- \"$t\"' EXIT; trap 'exit 1' HUP INT TERM; "
    f'cat >"$t" || exit {_NOT_WRITTEN}; h=$(sha256sum <"$t"); [ "${{h%% *}}" = "$3" ] || exit {_DAMAGED}; '
    f'if [ -n "$4" ]; then chown -- "$4" "$t" || exit {_NOT_OWNED}; fi; chmod -- "$2" "$t" || exit {_NOT_WRITTEN}; '
    f'sync -- "$t" || exit {_NOT_WRITTEN}; mv -fT -- "$t" "$d" || exit {_NOT_WRITTEN}; sync -- "$(dirname -- "$d")"; exit 0'
)


@dataclass(frozen=True, slots=True)
class Completed:
    """What a command left behind.

    Attributes:
        returncode: its exit status; :data:`NO_STATUS` where there is none.
        stdout, stderr: as they were printed, up to what was to be kept of each.
        dropped_bytes: how much of both was not kept.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    dropped_bytes: int = 0

    @property
    def ok(self) -> bool:
        """It ended by itself with status 0."""
        return self.returncode == 0

    def text(self) -> str:
        """Standard output, decoded; what is no UTF-8 is replaced."""
        return self.stdout.decode("utf-8", errors="replace")

    def error_text(self) -> str:
        """Standard error likewise, without white space around it."""
        return self.stderr.decode("utf-8", errors="replace").strip()


class SshSession:
    """One connection; may be used by several threads at once. Ends with the ``with`` block.

    Args:
        transport: an authenticated ``paramiko.Transport``.
        below: what is its own alone, and is closed after it.
        broken: the exceptions that mean the connection is gone.
        new_message: makes an empty message of the protocol.
        keep_alive_s: how often the host is asked for a sign of life while nothing is heard from it.
    """

    def __init__(
        self, target: SshTarget, transport: Any, below: Sequence[Any], *, broken: tuple[type[BaseException], ...],
        new_message: Callable[[], Any], keep_alive_s: float,
    ) -> None:
        self.target = target
        self._new_message = new_message
        self._transport = transport
        self._below = tuple(below)
        self._broken = broken
        self._keep_alive_s = keep_alive_s
        self._asking = threading.Lock()
        transport.set_keepalive(max(1, int(keep_alive_s)))

    def __enter__(self) -> SshSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; again does nothing."""
        for one in (self._transport, *reversed(self._below)):
            with contextlib.suppress(Exception):
                one.close()

    def is_alive(self, timeout_s: float = 5.0) -> bool:
        """The host answers over this connection, within so many seconds."""
        if not self._transport.is_active() or not self._asking.acquire(timeout=timeout_s):
            return False
        answered = threading.Event()

        def ask() -> None:
            try:
                with contextlib.suppress(*self._broken):
                    self._transport.global_request("keepalive@openssh.com", wait=True)
                    answered.set()
            finally:
                self._asking.release()

        threading.Thread(target=ask, daemon=True, name=f"alive-{self.target.label}").start()
        return answered.wait(timeout_s) and bool(self._transport.is_active())

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes | IO[bytes] = b"",
        timeout_s: float,
        keep_bytes: int = DEFAULT_KEEP_BYTES,
        stop: threading.Event | None = None,
    ) -> Completed:
        """Run a command to its end.

        Args:
            stdin: what it reads.
            timeout_s: it is sent TERM and left after this many seconds.
            keep_bytes: how much of standard output and of standard error is kept: the first half and the last half of it.
            stop: likewise when this is set.

        Raises:
            StopRequested: ``stop`` was set.
            RemoteTimeoutError: it took longer.
            UnreachableError: the connection broke.
        """
        out, err = Kept(keep_bytes), Kept(keep_bytes)
        code = self._exchange(argv, out.add, err.add, stdin=stdin, timeout_s=timeout_s, stop=stop)
        if stop is not None and stop.is_set() and code == NO_STATUS:
            raise StopRequested(f"'{argv[0]}' on {self.target.label} was ended")
        return Completed(tuple(argv), code, out.value(), err.value(), out.dropped_bytes + err.dropped_bytes)

    def stream(
        self,
        argv: Sequence[str],
        on_stdout: Callable[[bytes], None],
        on_stderr: Callable[[bytes], None],
        *,
        stdin: bytes | IO[bytes] | None = None,
        stop: threading.Event,
        timeout_s: float | None = None,
    ) -> int:
        """Run a command and hand over what it prints as it comes; its exit status, or :data:`NO_STATUS`.

        A host that falls silent is asked for a sign of life every ``keep_alive_s`` and given up without one.

        Args:
            on_stdout, on_stderr: called with each chunk, in the calling thread.
            stop: when it is set, the command is sent TERM and left.
            timeout_s: likewise after this many seconds; None waits for ever.

        Raises:
            RemoteTimeoutError: it took longer.
            UnreachableError: the connection broke, or the host no longer answers.
        """
        return self._exchange(argv, on_stdout, on_stderr, stdin=stdin or b"", timeout_s=timeout_s, stop=stop)

    def put(
        self,
        source: bytes | Path,
        remote_path: str,
        *,
        mode: int = 0o600,
        owner: str = "",
        timeout_s: float = 300.0,
        prefix: Sequence[str] = (),
    ) -> None:
        """Write a file there, whole or not at all: a new file, its hash compared, forced to disk, moved to its name.

        Args:
            remote_path: its name, not a directory's; ``~/`` is the home of the user there.
            owner: ``user:group`` of the new file; "" leaves it to the user there.
            prefix: a command that runs the writing, such as ``("sudo", "-n")``.

        Raises:
            StorageError: it could not be written, and what was there is still there.
            RemoteTimeoutError, UnreachableError: as in :meth:`run`.
        """
        with contextlib.ExitStack() as stack:
            data: IO[bytes] = stack.enter_context(source.open("rb") if isinstance(source, Path) else io.BytesIO(source))
            digest = hashlib.sha256()
            while chunk := data.read(_CHUNK):
                digest.update(chunk)
            data.seek(0)
            argv = [*prefix, "sh", "-c", _PUT, "sh", remote_path, f"{mode:o}", digest.hexdigest(), owner]
            done = self.run(argv, stdin=data, timeout_s=timeout_s, keep_bytes=_CHUNK)
        if not done.ok:
            why = {_DAMAGED: "what arrived is not what was sent", _NOT_OWNED: f"it cannot be given to {owner}"}.get(
                done.returncode, "cannot be written"
            )
            raise StorageError(f"{why}: {done.error_text() or done.returncode}", where=f"{self.target.label}:{remote_path}")

    def get(self, remote_path: str, *, limit_bytes: int = 64 * 2**20, timeout_s: float = 300.0) -> bytes:
        """Read a file there.

        Raises:
            NotFoundError: there is none.
            StorageError: it cannot be read, or is longer than ``limit_bytes``.
            RemoteTimeoutError, UnreachableError: as in :meth:`run`.
        """
        done = self.run(["sh", "-c", _GET, "sh", remote_path], timeout_s=timeout_s, keep_bytes=limit_bytes)
        self._judge_get(done.returncode, done.error_text(), remote_path)
        if done.dropped_bytes:
            raise StorageError(f"is longer than {limit_bytes} bytes", where=f"{self.target.label}:{remote_path}")
        return done.stdout

    def get_file(self, remote_path: str, path: Path, *, mode: int = 0o600, timeout_s: float = 3600.0) -> int:
        """Copy a file from there to ``path``, whole or not at all; its length in bytes.

        Raises:
            As :meth:`get`, for any length.
        """
        errors, length = Kept(_CHUNK), 0
        with storage_errors(path):
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    argv = ["sh", "-c", _GET, "sh", remote_path]
                    code = self._exchange(argv, file.write, errors.add, stdin=b"", timeout_s=timeout_s, stop=None)
                    self._judge_get(code, errors.value().decode(errors="replace").strip(), remote_path)
                    file.flush()
                    os.fchmod(handle, mode)
                    os.fsync(handle)
                    length = file.tell()
                Path(name).replace(path)
            finally:
                Path(name).unlink(missing_ok=True)
            sync_dir(path.parent)
        return length

    def _judge_get(self, code: int, errors: str, remote_path: str) -> None:
        where = f"{self.target.label}:{remote_path}"
        if code == _NO_FILE:
            raise NotFoundError("there is no such file", where=where)
        if code:
            raise StorageError(f"cannot be read: {errors or code}", where=where)

    def _exchange(
        self,
        argv: Sequence[str],
        on_stdout: Callable[[bytes], object],
        on_stderr: Callable[[bytes], object],
        *,
        stdin: bytes | IO[bytes],
        timeout_s: float | None,
        stop: threading.Event | None,
    ) -> int:
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        what = f"'{argv[0]}' on {self.target.label}"
        try:
            channel = self._transport.open_session(timeout=timeout_s or 3600.0)
        except self._broken as error:
            late = deadline is not None and time.monotonic() >= deadline
            kind = RemoteTimeoutError if late else UnreachableError
            raise kind(f"cannot start {what}: {error or 'the connection broke'}") from error
        try:
            channel.exec_command(shlex.join(argv))
            threading.Thread(target=_feed, args=(channel, stdin), daemon=True, name=f"feed-{self.target.label}").start()
            if not self._listen(channel, on_stdout, on_stderr, deadline, stop):
                self._end(channel)
                if stop is not None and stop.is_set():
                    return NO_STATUS
                raise RemoteTimeoutError(f"{what} took longer than {timeout_s:g} s")
            code = int(channel.recv_exit_status()) if channel.exit_status_ready() else NO_STATUS
            if code == NO_STATUS and not self._transport.is_active():
                raise UnreachableError(f"the connection broke while {what} ran")
            return code
        except self._broken as error:
            raise UnreachableError(f"the connection broke while {what} ran: {error}") from error
        finally:
            with contextlib.suppress(Exception):
                channel.close()

    def _listen(
        self, channel: Any, on_stdout: Callable[[bytes], object], on_stderr: Callable[[bytes], object],
        deadline: float | None, stop: threading.Event | None,
    ) -> bool:
        """Hand over what comes until the command's end; false if there is no more time for it."""
        poller = select.poll()
        poller.register(channel.fileno(), select.POLLIN)
        heard = time.monotonic()
        while True:
            ended = channel.closed or (channel.eof_received and channel.exit_status_ready())
            got = _drain(channel.recv_ready, channel.recv, on_stdout)
            got |= _drain(channel.recv_stderr_ready, channel.recv_stderr, on_stderr)
            now = time.monotonic()
            if got:
                heard = now
            elif ended:
                return True
            if (deadline is not None and now >= deadline) or (stop is not None and stop.is_set()):
                return False
            if now - heard > self._keep_alive_s:
                if not self.is_alive(self._keep_alive_s):
                    raise UnreachableError(f"{self.target.label} no longer answers")
                heard = time.monotonic()
            if got or ended:
                continue
            if channel.eof_received:
                time.sleep(0.01)  # the poll below would return at once from now on
            else:
                poller.poll(1000 * max(0.0, min(0.25, 0.25 if deadline is None else deadline - now)))

    def _end(self, channel: Any) -> None:
        """Send TERM to a command that is left: without a terminal, closing its channel alone lets it run on.

        paramiko has no call for this message. A server older than OpenSSH 7.9 ignores it.
        """
        with contextlib.suppress(Exception):
            message = self._new_message()
            message.add_byte(bytes((98,)))  # SSH_MSG_CHANNEL_REQUEST, RFC 4254 section 9
            message.add_int(channel.remote_chanid)
            message.add_string("signal")
            message.add_boolean(False)
            message.add_string("TERM")
            self._transport._send_user_message(message)


def _feed(channel: Any, stdin: bytes | IO[bytes]) -> None:
    """Send standard input and its end; a command that does not read it, or has ended, is no mistake."""
    with contextlib.suppress(Exception):
        source = io.BytesIO(stdin) if isinstance(stdin, bytes) else stdin
        while chunk := source.read(_CHUNK):
            channel.sendall(chunk)
        channel.shutdown_write()


def _drain(ready: Callable[[], bool], receive: Callable[[int], bytes], hand_over: Callable[[bytes], object]) -> bool:
    got = False
    for _ in range(_CHUNKS_AT_ONCE):
        if not ready():
            break
        chunk = receive(_CHUNK)
        if not chunk:
            break
        hand_over(chunk)
        got = True
    return got
