"""The only place that starts other programs (adapter over ``subprocess``).

Commands are argument lists, never shell strings; every call has a timeout; the result is a value.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from hpctrain.errors import MissingDependencyError

Popen = subprocess.Popen
PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL
STDOUT = subprocess.STDOUT
TimeoutExpired = subprocess.TimeoutExpired


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished program left behind.

    Attributes:
        argv: the command as it was run.
        returncode: exit status; negative is the signal that ended it.
        stdout: standard output, decoded (undecodable bytes are replaced).
        stderr: standard error, likewise.
        timed_out: it was killed because it ran past its timeout; ``returncode`` is then -9.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Ended by itself with status 0."""
        return self.returncode == 0 and not self.timed_out


def find(program: str) -> str | None:
    """Absolute path of a program, also from the sbin directories that users' PATHs lack."""
    extra = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin"))
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(program, path=os.pathsep.join((path, extra)))


def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: str | None = None,
) -> Result:
    """Run a program to its end.

    Args:
        argv: program and arguments; nothing passes through a shell.
        timeout_s: the whole process group is killed after this many seconds.
        env: the complete environment; None inherits ours.
        cwd: working directory; None inherits ours.
        stdin: text for its standard input; None gives an empty one.

    Raises:
        MissingDependencyError: there is no such program.
    """
    process = start(argv, env=env, cwd=cwd, stdin=PIPE if stdin is not None else DEVNULL, stdout=PIPE, stderr=PIPE)
    try:
        out, err = process.communicate(stdin.encode() if stdin is not None else None, timeout=timeout_s)
        timed_out = False
    except subprocess.TimeoutExpired:
        kill_group(process)
        out, err = process.communicate()
        timed_out = True
    except BaseException:
        # Ctrl-C must not leave the child behind: it is in a session of its own.
        kill_group(process)
        process.wait()
        raise
    return Result(tuple(argv), process.returncode, _text(out), _text(err), timed_out)


def start(
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: int | IO[Any] | None = DEVNULL,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    new_session: bool = True,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program and return at once; see :func:`run` for the arguments.

    Args:
        new_session: give it a session (and process group) of its own, so that a signal to our
            terminal does not reach it and :func:`kill_group` reaches all of it.
        pass_fds: file descriptors it inherits under the same numbers.

    Raises:
        MissingDependencyError: there is no such program.
    """
    try:
        return subprocess.Popen(
            list(argv), env=dict(env) if env is not None else None, cwd=cwd, stdin=stdin, stdout=stdout,
            stderr=stderr, start_new_session=new_session, close_fds=True, pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError as error:
        raise MissingDependencyError(f"cannot run {argv[0]!r}: {error.strerror} ({error.filename})") from None
    except PermissionError as error:
        raise MissingDependencyError(f"cannot run {argv[0]!r}: {error.strerror}") from None


def kill_group(process: subprocess.Popen[bytes], sig: int = signal.SIGKILL) -> None:
    """Signal the process group of a program that :func:`start` gave a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, sig)


def _text(data: bytes | None) -> str:
    return (data or b"").decode("utf-8", errors="replace")
