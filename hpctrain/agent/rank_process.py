"""The processes of this node's ranks: start, signal, reap, kill with everything they started (adapter over processes)."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from hpctrain import process

_HERE = Path(__file__).parent
_SHELLS = ("sh", "bash", "dash", "zsh", "ksh")


class RunningRank(Protocol):
    """One running rank, leader of its own session and process group, whoever its parent is.

    Attributes:
        pid: its process id, and the id of its group.
        stdout: read end of its standard output and error.
        returncode: None while it runs, then its exit status; negative is the signal that ended it.
    """

    pid: int
    stdout: IO[bytes]
    returncode: int | None

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""

    def ask_to_stop(self, number: signal.Signals) -> None:
        """Send a signal that asks the program to save."""

    def kill(self) -> None:
        """Kill the rank and every process of its group, also when the rank itself has ended."""

    def fileno(self) -> int | None:
        """A descriptor that becomes readable when it has ended, to wait for; None on kernels that have none."""


class RankProcess:
    """A rank that is a child of this process."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], cwd: str) -> None:
        # -I: neither the working directory nor PYTHON* variables decide what the small starter imports.
        starter = [sys.executable, "-I", "-S", str(_HERE / "start_rank.py"), str(os.getpid())]
        self._process = process.start(
            [*starter, *argv], env=env, cwd=cwd, stdout=process.PIPE, stderr=process.STDOUT
        )
        self._is_shell = Path(argv[0]).name in _SHELLS
        assert self._process.stdout is not None  # noqa: S101 - asked for above; for the type checker
        self.stdout: IO[bytes] = self._process.stdout
        self.pid = self._process.pid
        self.returncode: int | None = None
        self._ended_fd = _pidfd(self.pid)
        if self._ended_fd is not None:
            weakref.finalize(self, os.close, self._ended_fd)

    def fileno(self) -> int | None:
        return self._ended_fd

    def poll(self) -> int | None:
        """Reap it if it has ended; its exit status, None while it runs."""
        if self.returncode is None:
            self.returncode = self._process.poll()
        return self.returncode

    def ask_to_stop(self, number: signal.Signals) -> None:
        """Send a signal that asks the program to save.

        Only the rank itself is meant, as with torchrun: data loader workers that die of it would make it fail. A
        shell, though, keeps such a signal to itself until its child ends, so there the whole group gets it.
        """
        if self.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._is_shell:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the rank and every process of its group, also when the rank itself has ended."""
        process.kill_group(self._process, signal.SIGKILL)


def _pidfd(pid: int) -> int | None:
    """None before Linux 5.3, where the agent looks at its ranks every now and then instead."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


class Warden:
    """The small process that kills the groups should this agent die first.

    Args:
        local_dir: the agent's node-local directory, which it removes at the end.
    """

    def __init__(self, local_dir: Path) -> None:
        self._process = process.start(
            [sys.executable, "-I", "-S", str(_HERE / "warden.py"), str(local_dir)],
            stdin=process.PIPE, stdout=process.DEVNULL, stderr=process.DEVNULL,
        )

    def watch(self, pid: int) -> None:
        """Kill this group if we die."""
        self._say(f"+{pid}\n")

    def forget(self, pid: int) -> None:
        """The group is gone; its number may soon be somebody else's."""
        self._say(f"-{pid}\n")

    def close(self) -> None:
        """End it; what is still on its list is killed, and the directory removed."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(process.TimeoutExpired):
            self._process.wait(timeout=2)

    def _say(self, line: str) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
