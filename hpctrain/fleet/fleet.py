"""The same work on many hosts at once, each with its own outcome (service)."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Generic, TypeVar

from hpctrain.errors import AuthenticationError, HpctrainError, RemoteTimeoutError, StopRequested
from hpctrain.fleet.fold import fold_hosts
from hpctrain.fleet.session import DEFAULT_KEEP_BYTES, Completed, SshSession
from hpctrain.fleet.ssh import DEFAULT_TIMEOUT_S, Gates, Keys, connect
from hpctrain.fleet.target import SshTarget

T = TypeVar("T")

SUDO = ("sudo", "-n", "--")
_KILL_AFTER_S = 5.0
"""How long a command has between TERM and KILL."""
_TIMED_OUT = (124, 137)
"""Exit codes of ``timeout``: it ended the command, or had to kill it."""
_PATIENCE_S = 3.0
"""After Ctrl-C: how long hosts have to hear that their command is to end."""
_SCRIPT = 'IFS= read -r n; s=$(head -c "$n"); eval "$s"'
"""Reads a script of a given length from standard input and runs it, with what follows as its standard input.

So no script is on a command line, where a user's csh would have to understand it first.
"""


@dataclass(frozen=True, slots=True)
class HostResult(Generic[T]):
    """How it went on one host.

    Attributes:
        value: what the work gave; None if it failed.
        error: why it failed; None if it did not.
        seconds: how long it took, with connecting.
    """

    host: str
    value: T | None
    error: HpctrainError | None
    seconds: float


class Host:
    """A host while it is connected.

    Args:
        prefix: put before every command: :data:`SUDO`, or nothing.
        stop: set when everything is to end.
    """

    def __init__(self, label: str, session: SshSession, prefix: Sequence[str], stop: threading.Event) -> None:
        self.label = label
        self.session = session
        self.prefix = tuple(prefix)
        self._stop = stop

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes | IO[bytes] = b"",
        keep_bytes: int = DEFAULT_KEEP_BYTES,
    ) -> Completed:
        """Run a command there, through sudo if that was asked for.

        It is ended there when its time is over, also if this connection breaks before: a server lets a command of root's run
        on whatever it is told.

        Raises:
            AuthenticationError: sudo refuses.
            StopRequested, RemoteTimeoutError, UnreachableError: as :meth:`SshSession.run`.
        """
        started = time.monotonic()
        limited = [*self.prefix, "timeout", "-k", f"{_KILL_AFTER_S:g}", f"{timeout_s:.3f}", *argv]
        patience_s = timeout_s + 2 * _KILL_AFTER_S
        done = self.session.run(limited, stdin=stdin, timeout_s=patience_s, keep_bytes=keep_bytes, stop=self._stop)
        self._demand_sudo(done)
        if done.returncode in _TIMED_OUT and time.monotonic() - started >= timeout_s:
            raise RemoteTimeoutError(f"'{argv[0]}' on {self.label} took longer than {timeout_s:g} s")
        return replace(done, argv=tuple(argv))

    def run_script(self, script: str, arguments: Sequence[str], *, payload: bytes = b"", timeout_s: float) -> Completed:
        """Run a shell script there that is not there.

        Args:
            script: its text.
            payload: its standard input.

        Raises:
            As :meth:`run`.
        """
        text = script.encode()
        return self.run(
            ["sh", "-c", _SCRIPT, "sh", *arguments], stdin=f"{len(text)}\n".encode() + text + payload, timeout_s=timeout_s
        )

    def _demand_sudo(self, done: Completed) -> None:
        if self.prefix and done.returncode == 1 and not done.stdout and done.stderr.startswith(b"sudo:"):
            raise AuthenticationError(
                f"sudo on {self.label} refuses: {done.error_text().partition(chr(10))[0]}",
                hint="allow this user to use sudo without a password there (NOPASSWD), or log in as root",
            )


@dataclass(frozen=True, slots=True)
class Fleet:
    """Hosts, and how they are gone to.

    Attributes:
        targets: by the name under which each is shown.
        parallel: to how many at once.
        connect_timeout_s: for connecting and authenticating, per host.
        sudo: run everything through ``sudo -n``.
        connect: makes the connection.
    """

    targets: Mapping[str, SshTarget]
    parallel: int = 32
    connect_timeout_s: float = DEFAULT_TIMEOUT_S
    sudo: bool = False
    connect: Callable[..., SshSession] = connect
    keys: Keys = field(default_factory=Keys)
    gates: Gates = field(default_factory=Gates)

    def each(self, work: Callable[[Host], T]) -> list[HostResult[T]]:
        """Do the work on every host; the outcomes in the order of the hosts.

        What fails on one host leaves the others alone. Ctrl-C ends what runs on the hosts.

        Raises:
            StopRequested: Ctrl-C; says which hosts were not done.
        """
        pending, done = deque(self.targets), dict[str, HostResult[T]]()
        changed, stop = threading.Condition(), threading.Event()

        def serve() -> None:
            while True:
                with changed:
                    if stop.is_set() or not pending:
                        return
                    label = pending.popleft()
                result = self._one(label, work, stop)
                with changed:
                    done[label] = result
                    changed.notify_all()

        # Daemons: a host that is being connected to when Ctrl-C comes is not waited for.
        threads = [
            threading.Thread(target=serve, daemon=True, name=f"fleet-{number}")
            for number in range(min(max(1, self.parallel), len(self.targets)))
        ]
        try:
            for thread in threads:
                thread.start()
            with changed:
                while len(done) < len(self.targets):
                    changed.wait(1.0)
        except KeyboardInterrupt:
            stop.set()
            until = time.monotonic() + _PATIENCE_S
            for thread in threads:
                thread.join(max(0.0, until - time.monotonic()))
            left = [label for label in self.targets if label not in done or isinstance(done[label].error, StopRequested)]
            raise StopRequested(f"interrupted; not done on {fold_hosts(left)}" if left else "interrupted") from None
        finally:
            stop.set()
            self.gates.close()
        return [done[label] for label in self.targets]

    def _one(self, label: str, work: Callable[[Host], T], stop: threading.Event) -> HostResult[T]:
        started = time.monotonic()
        value: T | None = None
        problem: HpctrainError | None = None
        try:
            target, patience_s = self.targets[label], self.connect_timeout_s
            with self.connect(target, timeout_s=patience_s, keys=self.keys, gates=self.gates) as session:
                value = work(Host(label, session, SUDO if self.sudo else (), stop))
        except HpctrainError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - one host's surprise must not take the others' results away
            problem = HpctrainError(f"our own failure: {error!r}")
        return HostResult(label, value, problem, time.monotonic() - started)
