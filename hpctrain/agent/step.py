"""The ``srun`` that holds the agents: ours, or left behind by a coordinator that was killed (adapter over processes)."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from hpctrain import process

_GONE_S = 3.0


class AgentsStep:
    """One ``srun``.

    Attributes:
        pid: of it, and of its process group.
    """

    def __init__(self, pid: int, child: process.Popen[bytes] | None = None) -> None:
        self.pid, self._child = pid, child
        self._code: int | None = None

    @classmethod
    def start(cls, argv: Sequence[str], env: Mapping[str, str]) -> AgentsStep:
        """Start it. Raises MissingDependencyError."""
        child = process.start(argv, env=env)
        return cls(child.pid, child)

    @classmethod
    def take_over(cls, pid: int) -> AgentsStep | None:
        """The one that a coordinator before us has started; None when it has ended."""
        return cls(pid) if pid > 0 and _is_srun(pid) else None

    def poll(self) -> int | None:
        """Its exit code as a shell shows it; None while it runs. That of another's child is unknown and said to be 1."""
        if self._code is None and self._child is not None:
            code = self._child.poll()
            self._code = None if code is None else code if code >= 0 else 128 - code
        elif self._code is None and not _is_srun(self.pid):
            self._code = 1
        return self._code

    def end(self) -> None:
        """Kill it if it has not ended."""
        if self.poll() is not None:
            return
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        deadline = time.monotonic() + _GONE_S
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)


def _is_srun(pid: int) -> bool:
    """A living process of that number which is an srun: numbers are used again."""
    with contextlib.suppress(OSError):
        name, _, fields = Path(f"/proc/{pid}/stat").read_text().partition("(")[2].rpartition(")")
        return name == "srun" and fields.split()[0] not in "ZX"
    return False
