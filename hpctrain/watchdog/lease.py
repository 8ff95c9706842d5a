"""One watchdog at a time, also across hosts (adapter over the file system).

Two means, for two kinds of trouble:

- **A lock** (``flock``) on a file named after this host. The kernel drops it with the process, however that dies, so a
  second watchdog on the same host takes over at once.
- **A fenced lease** in the same directory, for hosts that share nothing but a file system. Its holder is the file with the
  highest number (the *token*), which it rewrites every few seconds. One that has not changed for ``ttl_s``, measured with
  the *own* clock since it was first looked at, may be overtaken by creating the next number; a number is created
  exclusively, so that one contender wins. Before each command the holder looks whether its number is still the highest and
  its last renewal young enough. Clocks of hosts are never compared.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock
from hpctrain.errors import StorageError
from hpctrain.files import PRIVATE_FILE, create_atomic, make_private_dir, write_atomic
from hpctrain.watchdog.journal import FencedError

TTL_S = 60.0
"""A lease that was not renewed for so long is over. Its holder stops acting after two thirds of that."""
_NAME = re.compile(r"^lease-(\d{12})\.json$")


class Lease:
    """The right to act.

    Args:
        directory: shared by all watchdogs that must not act at the same time.
        host: name of this host, unique among those that share the directory, and the same after a restart of the process.
    """

    def __init__(self, directory: Path, host: str, clock: Clock, *, ttl_s: float = TTL_S) -> None:
        self.directory, self.host, self.ttl_s = directory, host, ttl_s
        self._clock = clock
        self.token = 0
        self._renewed = 0.0
        self._beat = 0
        self._lock = -1
        self._watched: tuple[int, Any] = (0, None)
        self._watched_since = 0.0

    def acquire(self) -> bool:
        """Try to become the one that acts; call it again later if that fails.

        Raises:
            StorageError: the directory cannot be written.
        """
        make_private_dir(self.directory)
        if not self._take_lock():
            return False
        token, record = self.holder()
        free = not token or record is None or record.get("free") or (self._lock >= 0 and record.get("host") == self.host)
        if not free and not self._run_out(token, record):
            return False
        try:
            create_atomic(self._path(token + 1), self._text(free=False))
        except FileExistsError:
            return False
        self.token, self._renewed = token + 1, self._clock.monotonic()
        for number in self._numbers():
            if number < self.token - 1:
                self._path(number).unlink(missing_ok=True)
        return True

    def renew(self) -> None:
        """Show a sign of life; cheap enough for every turn of a loop.

        Raises:
            FencedError: another watchdog has taken over.
        """
        self.check()
        if self._clock.monotonic() - self._renewed >= self.ttl_s / 6:
            self._beat += 1
            started = self._clock.monotonic()
            write_atomic(self._path(self.token), self._text(free=False), durable=False)
            self._renewed = started

    def check(self) -> None:
        """Raise FencedError unless this watchdog may still act."""
        if max(self._numbers(), default=0) != self.token or not self.token:
            raise FencedError(f"another watchdog has taken over from this one (token {self.token})")
        if self._clock.monotonic() - self._renewed > self.ttl_s * 2 / 3:
            # It slept: another may be about to take over. One renewal, if nobody has, makes it the holder again.
            write_atomic(self._path(self.token), self._text(free=False), durable=False)
            self._renewed = self._clock.monotonic()
            if max(self._numbers(), default=0) != self.token:
                raise FencedError(f"another watchdog has taken over from this one (token {self.token})")

    def release(self) -> None:
        """Give it back, so that another need not wait."""
        if self.token:
            with contextlib.suppress(StorageError, FencedError, OSError):
                self.check()
                write_atomic(self._path(self.token), self._text(free=True), durable=False)
        if self._lock >= 0:
            os.close(self._lock)
        self._lock, self.token = -1, 0

    def holder(self) -> tuple[int, dict[str, Any] | None]:
        """The highest token and what its file says; (0, None) if there was never one."""
        token = max(self._numbers(), default=0)
        try:
            record = json.loads(self._path(token).read_text(encoding="utf-8")) if token else None
        except (OSError, ValueError):
            record = {"host": "?"}
        return token, record if isinstance(record, dict) or record is None else {"host": "?"}

    def _run_out(self, token: int, record: dict[str, Any] | None) -> bool:
        """Whether the holder has shown no life for the whole time, by our own clock."""
        seen = (token, record)
        if seen != self._watched:
            self._watched, self._watched_since = seen, self._clock.monotonic()
        return self._clock.monotonic() - self._watched_since >= self.ttl_s

    def _take_lock(self) -> bool:
        if self._lock >= 0:
            return True
        path = self.directory / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', self.host)}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            # A file system without locks: the lease alone has to do.
            return error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
        self._lock = handle
        return True

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self.directory)
        except OSError:
            return []
        return [int(match[1]) for name in names if (match := _NAME.match(name))]

    def _path(self, token: int) -> Path:
        return self.directory / f"lease-{token:012d}.json"

    def _text(self, *, free: bool) -> str:
        record = {"host": self.host, "pid": os.getpid(), "beat": self._beat, "free": free, "time": self._clock.time()}
        return json.dumps(record) + "\n"
