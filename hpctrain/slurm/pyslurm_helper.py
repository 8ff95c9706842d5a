"""Start, ask and replace the helper process that runs pyslurm (adapter over :mod:`hpctrain.process`).

One helper serves one request at a time; a lock makes that true for threads. A helper that does not answer in time, or
answers nonsense, is killed: the next request starts a new one. What a lost answer means is for the caller to decide, who
knows whether the request may be sent twice.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

from hpctrain import process
from hpctrain.errors import MissingDependencyError
from hpctrain.slurm.pyslurm_wire import Frames, encode

COMMAND = (sys.executable, "-m", "hpctrain.slurm.via_pyslurm")
START_TIMEOUT_S = 30.0
"""Python, pyslurm and libslurm: 0.1 s on an idle machine; a file system under load takes its time."""
_STDERR_KEPT_BYTES = 16 << 10


class HelperError(Exception):
    """Why a request has no answer."""


class HelperRefusedError(HelperError):
    """Slurm said no.

    Args:
        text: Slurm's own words.
        number: Slurm's number for that.
    """

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.number = number


class HelperBrokeError(HelperError):
    """pyslurm raised something that is no answer of Slurm's; nobody knows how far it came."""


class HelperDiedError(HelperError):
    """The process ended while a request was under way; nobody knows how far it came."""


class HelperSilentError(HelperError):
    """No answer in time; the process has been killed, and nobody knows how far it came."""


class HelperUnusableError(HelperError):
    """There is no pyslurm, or none that works here; no request was sent."""


class Helper:
    """A helper process, started by the first request.

    Args:
        env: its whole environment; ``SLURM_CONF`` in it chooses the cluster.
        slurm_version: tells what Slurm's commands are, such as ``24.11.5``: a pyslurm for another series is not used.
        command: what is run.
        start_timeout_s: longest wait for a new process to be ready.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        slurm_version: Callable[[], str] | None = None,
        *,
        command: tuple[str, ...] = COMMAND,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        self._env, self._command, self._start_timeout_s = dict(env), command, start_timeout_s
        self._slurm_version = slurm_version
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self.starts = 0
        self.requests = 0

    @property
    def pid(self) -> int | None:
        """Process id of the helper, None while there is none."""
        return self._running.process.pid if self._running else None

    def hello(self) -> dict[str, Any]:
        """What the helper said of itself: ``pyslurm`` and ``built_for``, both versions; starts it if need be.

        Raises:
            HelperUnusableError: there is no pyslurm that works here.
        """
        with self._lock:
            return self._current().hello

    def ask(self, call: str, timeout_s: float, **arguments: Any) -> Any:
        """The answer to one request.

        Raises:
            HelperError: there is none, in one of the forms above.
        """
        with self._lock:
            running = self._current()
            self.requests += 1
            try:
                answer = running.ask({"call": call, **arguments}, timeout_s)
            except BaseException:
                # Also Ctrl-C: an answer that comes later must not be taken for the next request's.
                self._drop()
                raise
        if "answer" in answer:
            return answer["answer"]
        if "refused" in answer:
            raise HelperRefusedError(str(answer["refused"]["text"]), int(answer["refused"]["number"] or 0))
        raise HelperBrokeError(f"pyslurm failed: {answer.get('broken', 'it said nothing that is known')}")

    def close(self) -> None:
        """End the process; a later request starts a new one."""
        with self._lock:
            self._drop()

    def _current(self) -> _Running:
        if self._running is not None and self._running.owner != os.getpid():
            self._drop()  # we are a fork: the process and its pipes are our parent's
        if self._running is not None and self._running.process.poll() is not None:
            self._drop()
        if self._running is None:
            self.starts += 1
            command = (*self._command, self._slurm_version()) if self._slurm_version else self._command
            self._running = _Running(command, self._env, self._start_timeout_s)
        return self._running

    def _drop(self) -> None:
        if self._running is not None:
            self._running.finalizer()
            self._running = None


class _Running:
    """One process and its pipes."""

    def __init__(self, command: tuple[str, ...], env: Mapping[str, str], timeout_s: float) -> None:
        self.owner = os.getpid()
        self._frames, self._waiting = Frames(), list[dict[str, Any]]()
        self._stderr = tempfile.TemporaryFile(mode="a+b", buffering=0)  # noqa: SIM115 - _end closes it
        try:
            # In "/", because "python -m" would import from the directory that it is started in.
            self.process = process.start(
                command, env=env, cwd="/", stdin=process.PIPE, stdout=process.PIPE, stderr=self._stderr
            )
        except MissingDependencyError as error:
            self._stderr.close()
            raise HelperUnusableError(str(error)) from None
        self.finalizer: weakref.finalize[Any, Any] = weakref.finalize(self, _end, self.owner, self.process, self._stderr)
        assert self.process.stdin is not None  # noqa: S101 - it is a pipe
        assert self.process.stdout is not None  # noqa: S101 - likewise
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._poll = select.poll()  # select() has no descriptors above 1023
        self._poll.register(self._stdout, select.POLLIN)
        try:
            first = self._next(time.monotonic() + timeout_s)
        except HelperDiedError as error:
            self.finalizer()
            raise HelperUnusableError(f"pyslurm's process ended while it started: {error}") from None
        except HelperSilentError:
            self.finalizer()
            raise HelperUnusableError(f"pyslurm's process was not ready within {timeout_s:g} s") from None
        if "hello" not in first:
            self.finalizer()
            raise HelperUnusableError(str(first.get("unusable", "pyslurm's process did not say hello")))
        self.hello: dict[str, Any] = first["hello"]

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        self._trim_stderr()
        try:
            # Never blocks: requests are small, and the helper has read all that came before.
            self._stdin.write(encode(request))
            self._stdin.flush()
        except OSError:
            raise HelperDiedError(self._end_in_words()) from None
        return self._next(time.monotonic() + timeout_s)

    def _next(self, deadline: float) -> dict[str, Any]:
        while not self._waiting:
            left_s = max(0.0, deadline - time.monotonic())
            if not self._poll.poll(left_s * 1000):
                raise HelperSilentError("pyslurm's process did not answer")
            data = os.read(self._stdout.fileno(), 1 << 20)
            if not data:
                raise HelperDiedError(self._end_in_words())
            try:
                self._waiting += self._frames.feed(data)
            except ValueError as error:
                raise HelperDiedError(f"it answered with {error}") from None
        return self._waiting.pop(0)

    def _end_in_words(self) -> str:
        try:
            code = self.process.wait(timeout=5)
        except process.TimeoutExpired:
            return "it closed its output"
        how = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
        said = self.last_words()
        return f"{how}: {said}" if said else how

    def last_words(self) -> str:
        """The end of what it wrote to standard error, in one line."""
        size = os.fstat(self._stderr.fileno()).st_size
        data = os.pread(self._stderr.fileno(), 600, max(0, size - 600))
        return "; ".join(line.strip() for line in data.decode(errors="replace").splitlines() if line.strip())

    def _trim_stderr(self) -> None:
        """The library complains about every failed request, for as long as a watchdog lives."""
        if os.fstat(self._stderr.fileno()).st_size > _STDERR_KEPT_BYTES:
            os.ftruncate(self._stderr.fileno(), 0)


def _end(owner: int, running: process.Popen[bytes], stderr: IO[bytes]) -> None:
    """Runs when the helper is dropped, and at the end of this process; a fork only closes what it got."""
    if owner == os.getpid():
        process.kill_group(running)
        running.wait()
    for pipe in (running.stdin, running.stdout, stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
