"""Run a command on another machine and show what it prints as if it ran here, over connections that may break (service)."""

from __future__ import annotations

import json
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, cast

from hpctrain.clock import Clock
from hpctrain.errors import AuthenticationError, HostKeyError, HpctrainError, MissingDependencyError, UnreachableError
from hpctrain.fleet.remote_feed import Feed, object_name, to_send, tree_of
from hpctrain.fleet.remote_frames import PROTOCOL, Frame, GarbledError, Reader, merge
from hpctrain.fleet.remote_parcel import Item, Parcel, size
from hpctrain.fleet.remote_profile import Remote

SERVE = "remote-serve"
"""The command of hpctrain that answers on the other machine."""
LONGEST_PAUSE_S = 15.0
MOST_SILENT = 3
"""So many connections may break before anything was ever heard; then it is no accident."""
KEEP_CHARACTERS = 8 * 2**20
"""Of a command that follows nothing so much is kept back until its end: then it can be asked again without a trace."""
_MISSING_STATUS, NO_STATUS = 127, -1


class Session(Protocol):
    """What is needed of one SSH connection; :class:`hpctrain.fleet.session.SshSession` is one."""

    def stream(
        self, argv: Sequence[str], on_stdout: Callable[[bytes], None], on_stderr: Callable[[bytes], None], *,
        stdin: bytes | IO[bytes] | None = None, stop: threading.Event, timeout_s: float | None = None,
    ) -> int:
        """Run a command and hand over what it prints as it comes; its exit status, -1 where it has none."""


class Sink(Protocol):
    """Where the other machine's output appears."""

    def show(self, stream: int, text: str) -> None:
        """Print on standard output (1) or standard error (2)."""

    def say(self, text: str) -> None:
        """A message of this end, on standard error."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to run there.

    Attributes:
        argv: the words after ``hpctrain``.
        follows: it goes on until something ends: shown as it comes, and resumed after a broken connection.
        parcel: for a submission, the files it needs.
        dry_run: nothing may stay on the other machine.
        terminal: what this end's terminal is like; see :meth:`hpctrain.fleet.remote_link.Link.in_place_of_the_terminal`.
    """

    argv: tuple[str, ...]
    follows: bool = False
    parcel: Parcel | None = None
    dry_run: bool = False
    terminal: Mapping[str, Any] = field(default_factory=dict)


class Client:
    """Carries out orders on one other machine.

    Args:
        connect: opens a connection.
        sink: shows what the other machine prints.
    """

    def __init__(
        self, remote: Remote, connect: Callable[[], AbstractContextManager[Session]], clock: Clock, sink: Sink
    ) -> None:
        self._remote, self._connect, self._clock, self._sink = remote, connect, clock, sink
        self._feed: Feed | None = None
        self._stop = threading.Event()
        self._interrupted = False

    def carry_out(self, order: Order) -> int:
        """Run it to its end and return its exit code; 130 after a Ctrl-C.

        A connection that breaks is made again, as long as the profile says; a first one that cannot be made is an error at
        once.

        Raises:
            UnreachableError: there is no connection, or none any more.
            MissingDependencyError: there is no hpctrain over there, or one that does not know this.
        """
        state = _State(order, secrets.token_hex(16))
        pause_s, lost_since, silent = 1.0, None, 0
        try:
            while True:
                heard, made = state.heard, False
                try:
                    with self._connect() as session:
                        made = True
                        if lost_since is not None:
                            self._sink.say(f"connected to {self._remote.name} again")
                        return self._converse(session, state)
                except UnreachableError as error:
                    if self._interrupted:
                        return 130
                    silent += made
                    hopeless = not state.heard and (silent == 0 or silent >= MOST_SILENT)
                    if hopeless or isinstance(error, (HostKeyError, AuthenticationError)):
                        raise
                    now = self._clock.monotonic()
                    if lost_since is None or state.heard > heard:
                        pause_s, lost_since = 1.0, now
                        state.start_again(error)
                    if made:
                        self._sink.say(f"lost the connection to {self._remote.name}: {error.message}; {state.meanwhile()}")
                    if now - lost_since >= self._remote.give_up_s:
                        raise UnreachableError(
                            f"no connection to {self._remote.name} for {self._remote.give_up_s:g} s: {error.message}",
                            hint=state.advice(self._remote.name),
                        ) from None
                    self._clock.sleep(pause_s)
                    pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        except KeyboardInterrupt:
            self._sink.say(f"interrupted; {state.advice(self._remote.name)}")
            return 130

    def interrupt(self) -> bool:
        """Pass a Ctrl-C on to the command there, which ends as it would here; the second time, leave it.

        False where no command runs there now: then it is the caller's.
        """
        if self._feed is None:
            return False
        self._interrupted = True
        if not self._feed.interrupt():
            self._stop.set()
        return True

    def _converse(self, session: Session, state: _State) -> int:
        order = state.order
        sending: Sequence[Item] = ()
        request: Frame = {
            "protocol": PROTOCOL, "op": "run", "argv": list(order.argv), "terminal": dict(order.terminal), "at": state.at,
            "hold": order.follows,
        }
        if order.parcel is not None and "run" not in state.at:
            names = {} if order.dry_run else state.names()
            request |= {"request": state.request, "tree": tree_of(order.parcel, names)}
            if not order.dry_run:
                wanted, code = self._missing(session, state)
                if self._interrupted:
                    self._sink.say("interrupted; nothing was submitted")
                    return 130
                if code:
                    return code
                sending = to_send(order.parcel, names, wanted)
                self._tell_of_files(sending, len(set(names.values())), state)
                request["sending"] = [[names[item.path], item.size_bytes] for item in sending]
        exit_code = self._talk(session, request, lambda frame: state.take(frame, self._sink), sending)
        if exit_code is None:
            raise UnreachableError("the command there ended without an answer")
        return exit_code

    def _missing(self, session: Session, state: _State) -> tuple[set[str], int]:
        """Which contents must be sent, and 0; or the exit code of a question that was not answered."""
        frames: list[Frame] = []
        question = {"protocol": PROTOCOL, "op": "missing", "names": sorted(set(state.names().values()))}
        code = self._talk(session, question, frames.append)
        if code is None:
            raise UnreachableError("the connection broke")
        state.heard += 1
        for frame in frames:
            if "missing" in frame:
                return set(frame["missing"]), 0
        for frame in frames:
            for stream, text in frame.get("items", ()):
                self._sink.show(stream, text)
        return set(), code or 1

    def _tell_of_files(self, sending: Sequence[Item], total: int, state: _State) -> None:
        if not sending or state.told_of_files:
            return
        state.told_of_files = True
        there = total - len(sending)
        known = f"; {there} {'was' if there == 1 else 'were'} there already" if there else ""
        what = "1 file" if len(sending) == 1 else f"{len(sending)} files"
        self._sink.say(f"sending {what} ({size(sum(item.size_bytes for item in sending))}) to {self._remote.name}{known}")

    def _talk(
        self, session: Session, request: Frame, on_frame: Callable[[Frame], None], sending: Sequence[Item] = (),
    ) -> int | None:
        """Ask, and hand on what comes; the exit code, None where the other end went without giving one."""
        reader, errors = Reader(), deque[bytes](maxlen=64)
        feed = Feed(json.dumps(request).encode() + b"\n", [(item.path, item.size_bytes) for item in sending])
        codes: list[int] = []

        def take(chunk: bytes) -> None:
            frames = reader.feed(chunk)
            self._check_protocol(reader)
            for frame in frames:
                on_frame(frame)
                if "exit" in frame:
                    codes.append(int(frame["exit"]))
                    feed.close()

        self._feed = feed
        try:
            status = session.stream(
                [*self._remote.command, SERVE], take, errors.append, stdin=cast("IO[bytes]", feed), stop=self._stop,
            )
        except GarbledError as error:
            raise self._stranger(reader, b"".join(errors), str(error)) from None
        finally:
            self._feed = None
            feed.close()
        if codes:
            return codes[0]
        if self._stop.is_set():
            return 130
        if reader.greeting is None and status != NO_STATUS:
            raise self._absent(status, b"".join(errors), reader)
        if status > 0:
            raise HpctrainError(
                f"hpctrain on {self._remote.name} ended without an answer (status {status})",
                hint=_last(b"".join(errors)) or "try it on that machine itself",
            )
        return None

    def _check_protocol(self, reader: Reader) -> None:
        greeting = reader.greeting or {"protocol": PROTOCOL}
        if greeting.get("protocol") != PROTOCOL:
            from hpctrain import __version__

            raise MissingDependencyError(
                f"hpctrain on {self._remote.name} is {greeting.get('version')} and speaks protocol "
                f"{greeting.get('protocol')}; this one is {__version__} and speaks {PROTOCOL}",
                hint="install the same version on both machines",
            )

    def _absent(self, status: int, errors: bytes, reader: Reader) -> MissingDependencyError:
        """Nothing of ours has answered: why, as far as one can know."""
        program, text = " ".join(self._remote.command), _last(errors) or _last(reader.noise)
        if status == _MISSING_STATUS:
            return MissingDependencyError(
                f"there is no {program!r} on {self._remote.name}: {text or 'command not found'}",
                hint="install hpctrain there (docs/install.md); where the login shell does not find it, write its path as "
                     "command = \"...\" below [remote.NAME] in config.toml",
            )
        if f"no such command '{SERVE}'" in errors.decode(errors="replace"):
            return MissingDependencyError(
                f"hpctrain on {self._remote.name} is too old for --remote: it has no {SERVE}",
                hint="install the version of this machine there: hpctrain --version",
            )
        return MissingDependencyError(
            f"{program!r} on {self._remote.name} does not answer (status {status}): {text or 'it says nothing'}",
            hint=f"try it by hand: ssh {self._remote.host} {program} --version",
        )

    def _stranger(self, reader: Reader, errors: bytes, why: str) -> MissingDependencyError:
        text = _last(reader.noise) or _last(errors)
        return MissingDependencyError(
            f"what {self._remote.name} answers is not from hpctrain ({why}): {text}",
            hint="a start file of the login shell there may print; keep it silent where there is no terminal",
        )


class _State:
    """What must outlive a connection: the position, and what was kept back."""

    def __init__(self, order: Order, request: str) -> None:
        self.order, self.request = order, request
        self.at: Frame = {}
        self.heard = 0
        self.told_of_files = False
        self._names: dict[Path, str] = {}
        self._kept: list[tuple[int, str]] | None = None if order.follows else []
        self._kept_characters = 0

    def names(self) -> dict[Path, str]:
        """The object that each file is; read once, so that a file that changes later is noticed."""
        if not self._names and self.order.parcel is not None:
            self._names = {item.path: object_name(item) for item in self.order.parcel.items}
        return self._names

    def take(self, frame: Frame, sink: Sink) -> None:
        """Show what a frame brings, and remember how far that is."""
        self.heard += 1
        for stream, text in frame.get("items", ()):
            if self._kept is None:
                sink.show(stream, text)
            else:
                self._kept.append((stream, text))
                self._kept_characters += len(text)
        merge(self.at, frame.get("at", {}))
        if "exit" in frame or self._kept_characters > KEEP_CHARACTERS:
            for stream, text in self._kept or ():
                sink.show(stream, text)
            self._kept = None

    def start_again(self, error: UnreachableError) -> None:
        """Get ready for another connection: what a command that follows nothing had said so far, it will say again.

        Raises:
            UnreachableError: part of that has been shown already.
        """
        if self.order.follows or "run" in self.at:
            return
        if self._kept is None:
            raise UnreachableError(f"the connection broke, and the output above is not complete: {error.message}")
        self._kept, self._kept_characters, self.at = [], 0, {}

    def meanwhile(self) -> str:
        """What the user should know while there is no connection."""
        job = self.at.get("job")
        return f"job {job} goes on. Connecting again ..." if job is not None else "connecting again ..."

    def advice(self, remote: str) -> str:
        """What to do when there is no connection any more."""
        run = self.at.get("run")
        if run is None:
            return f"what there is on {remote}: hpctrain --remote {remote} list"
        return f"job {self.at.get('job')} goes on; follow it again: hpctrain --remote {remote} logs -f {run}"


def _last(data: bytes) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in data.decode(errors="replace").splitlines() if line.strip()]
    return "".join(char if char.isprintable() else " " for char in lines[-1])[:300] if lines else ""
