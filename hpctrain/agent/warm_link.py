"""The agent's end of the warm process: keeps it alive, asks it for ranks, hears how they ended (adapter over a process).

One thread owns the process: it starts it, listens, and starts it again when it dies. The kernel ties a child's life to
the *thread* that started it, so this thread lives as long as the agent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO, Any

from hpctrain import process
from hpctrain.agent.python_command import PythonCommand
from hpctrain.agent.warm import BOOT
from hpctrain.agent.warm_wire import Wire
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError

FORK_LIMIT_S = 30.0
"""A fork takes milliseconds; a warm process that does not answer for so long is stuck, and is killed."""
DEATHS_LIMIT, DEATHS_WINDOW_S = 3, 600.0
"""Dies so often within so long: ranks are started in the ordinary way from then on."""
GONE_S = 5.0
"""Longest wait for ranks that the kernel kills with their parent to be really gone, with the memory they hold."""
END_S = 5.0
_BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_TAIL_BYTES = 2000


class State(str, Enum):
    """What the warm process is doing."""

    OFF = "off"
    STARTING = "starting"
    READY = "ready"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class WarmOrder:
    """How the warm process is started.

    Attributes:
        env: its environment, which is that of the ranks but for what differs from rank to rank.
        workdir: directory in which the ranks start.
        modules: what it imports; a package that is not installed is left out.
        recipe: path of the resolved recipe of our own trainer, "" for other programs.
    """

    env: Mapping[str, str]
    workdir: str
    modules: tuple[str, ...] = ()
    recipe: str = ""


class WarmRank:
    """A rank that is a child of the warm process; see :class:`hpctrain.agent.rank_process.RunningRank`."""

    def __init__(self, pid: int, stdout: IO[bytes]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._ended_fd, self._still_runs = os.pipe2(os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._ended_fd)

    def poll(self) -> int | None:
        return self.returncode

    def fileno(self) -> int | None:
        return self._ended_fd

    def ask_to_stop(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)  # in its first moment it has no group of its own

    def end(self, code: int) -> None:
        """It has ended (called by the link's thread)."""
        if self.returncode is None:
            self.returncode = code
            os.close(self._still_runs)  # whoever waits for fileno() wakes up


class WarmLink:
    """Keeps one warm process.

    Args:
        say: a line for the job's output.
        watch, forget: tell the agent's warden of a process group, and that it is gone.
    """

    def __init__(
        self, order: WarmOrder, *, clock: Clock, say: Callable[[str], None], watch: Callable[[int], None],
        forget: Callable[[int], None],
    ) -> None:
        self._order, self._clock, self._say = order, clock, say
        self._watch, self._forget = watch, forget
        self._changed = threading.Condition()
        self._state = State.OFF
        self._stopping = False
        self._process: process.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self._said: IO[bytes] | None = None
        self._deaths: list[float] = []
        self._next_id = 0
        self._asked: dict[int, IO[bytes]] = {}
        self._answers: dict[int, WarmRank | None] = {}
        self._ranks: dict[int, WarmRank] = {}
        self._thread = threading.Thread(target=self._run, name="warm", daemon=True)

    @property
    def state(self) -> State:
        """What it is doing now."""
        return self._state

    @property
    def pid(self) -> int | None:
        """Process id of the warm process while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Begin; returns at once."""
        self._state = State.STARTING
        self._thread.start()

    def wait(self, limit_s: float) -> bool:
        """Whether it is ready, waiting for it as long as it may become so."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is not State.STARTING or self._stopping, limit_s)
            return self._state is State.READY

    def fork(self, command: PythonCommand, env: Mapping[str, str], workdir: str) -> WarmRank | None:
        """A new rank; None if the warm process cannot give one."""
        read, write = os.pipe2(os.O_CLOEXEC)
        stdout = os.fdopen(read, "rb")
        try:
            with self._changed:
                if self._state is not State.READY or self._wire is None:
                    return None
                self._next_id += 1
                number = self._next_id
                self._asked[number] = stdout
                request = {"id": number, "argv": command.argv, "script": command.script, "module": command.module,
                           "args": command.args, "env": dict(env), "workdir": workdir}
                try:
                    self._wire.send(request, [write])
                except OSError:
                    self._asked.pop(number)
                    return None
                answered = self._changed.wait_for(lambda: number in self._answers, FORK_LIMIT_S)
                self._asked.pop(number, None)
                if not answered:
                    self._say("the warm process does not answer, and is killed")
                    self._kill()
                    return None
                return self._answers.pop(number)
        finally:
            os.close(write)

    def stop(self) -> None:
        """End it, and with it every rank that it has forked."""
        with self._changed:
            self._stopping = True
            self._kill()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(END_S)

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        # Children inherit what a thread has blocked: see tier_processes.py.
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        while True:
            refused = "" if self._begin() else "it cannot be started"
            while not refused and self._wire is not None and (received := self._wire.receive()) is not None:
                refused = self._take(received[0])
            if self._over(refused):
                return

    def _begin(self) -> bool:
        ours, theirs = socket.socketpair()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the same thread when the process is gone
        argv = [sys.executable, "-c", BOOT, str(os.getpid()), str(theirs.fileno())]
        with self._changed:
            if self._stopping:
                ours.close()
                theirs.close()
                return True
            try:
                self._process = process.start(
                    argv, env=self._order.env, cwd=self._order.workdir, stdout=process.DEVNULL, stderr=self._said,
                    pass_fds=[theirs.fileno()],
                )
            except (HpctrainError, OSError):
                ours.close()
                return False
            finally:
                theirs.close()
            self._wire = Wire(ours)
        self._watch(self._process.pid)
        with contextlib.suppress(OSError):
            self._wire.send({"modules": self._order.modules, "recipe": self._order.recipe})
        return True

    def _take(self, message: dict[str, Any]) -> str:
        """Act on one message; why the process will not do, "" if it will."""
        with self._changed:
            if "refused" in message:
                return str(message["refused"])
            if "ready" in message:
                self._state = State.READY
            elif "forked" in message:
                self._forked(message["forked"], message["pid"])
            elif "failed" in message:
                self._say(f"the warm process {message['why']}")
                self._answers[message["failed"]] = None
            elif "ended" in message and (rank := self._ranks.pop(message["ended"], None)):
                rank.end(message["code"])
            self._changed.notify_all()
        return ""

    def _forked(self, number: int, pid: int) -> None:
        stdout = self._asked.pop(number, None)
        if stdout is None:  # nobody waits for it any more
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            return
        self._watch(pid)
        self._answers[number] = self._ranks[pid] = WarmRank(pid, stdout)

    def _over(self, refused: str) -> bool:
        """The process is gone or of no use; whether there shall be no other."""
        now = self._clock.monotonic()
        with self._changed:
            self._kill()
            why = refused or self._last_words()
            self._deaths = [at for at in self._deaths if now - at < DEATHS_WINDOW_S] + [now]
            final = self._stopping or bool(refused) or len(self._deaths) >= DEATHS_LIMIT
            self._state = State.OFF if self._stopping else State.GIVEN_UP if final else State.STARTING
            lost, self._ranks = self._ranks, {}
            self._answers |= dict.fromkeys(self._asked)
            if self._wire is not None:
                self._wire.close()
                self._wire = None
            self._changed.notify_all()
        if not self._stopping:
            then = "ranks are started without it" if final else "it is started again"
            self._say(f"the process that forks ranks is not available: {why}; {then}")
        for rank in lost.values():
            rank.kill()
        for rank in lost.values():
            self._wait_until_gone(rank.pid)
            rank.end(-signal.SIGKILL)
        if self._said is not None:
            self._said.close()
        return final

    def _last_words(self) -> str:
        """Reap it; how it ended, and the last line that it printed."""
        if self._process is None:
            return "it cannot be started"
        try:
            code: int | None = self._process.wait(timeout=END_S)
        except process.TimeoutExpired:
            code = None
        self._forget(self._process.pid)
        self._process = None
        text = ""
        if self._said is not None:
            self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - _TAIL_BYTES))
            text = self._said.read().decode(errors="replace").strip()
        return f"it ended with {code}" + (f" ({text.splitlines()[-1]})" if text else "")

    def _kill(self) -> None:
        if self._process is not None:
            process.kill_group(self._process)

    def _wait_until_gone(self, pid: int) -> None:
        limit = self._clock.monotonic() + GONE_S
        while self._clock.monotonic() < limit:
            try:
                if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX":
                    return
            except OSError:
                return
            self._clock.sleep(0.005)
