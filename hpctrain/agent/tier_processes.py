"""Keeps this node's keeper and writer of checkpoints alive, beside the ranks and longer than they live (service).

The keeper holds the memory; the writer does all that takes time: hashing for files, sending to the peer, writing to the
shared tier and the others. Both are started while the ranks start, so that nothing waits for them, and end with the agent:
the keeper watches the agent, the writer the keeper, and the agent's warden kills both should that not be enough.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctrain import process
from hpctrain.agent.rank_result import describe_exit
from hpctrain.checkpoint.keeper_client import start_keeper
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.clock import Clock
from hpctrain.jobs.writer import EventWriter

TICK_S = 0.2
FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 30.0
STEADY_S = 1.0
"""A process that has lived so long works again; one that dies at once, again and again, is one event."""
CALM_S = 60.0
"""A process that has lived so long has earned a restart without delay."""
END_S = 2.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Start = Callable[[], "process.Popen[bytes]"]


@dataclass
class Helper:
    """A process that is started again when it dies.

    Attributes:
        what: ``keeper`` or ``writer``.
        loss: what its death costs, for the event.
        expected: process whose end is our own doing, and no event.
    """

    what: str
    start: Start
    loss: str
    process: process.Popen[bytes] | None = None
    failures: int = 0
    started_s: float = 0.0
    retry_at_s: float = float("-inf")
    told: bool = False
    expected: int = 0


def helpers(secret: bytes, node: str, run_dir: Path, env: Mapping[str, str], agent_pid: int) -> list[Helper]:
    """The two processes of a node, in the order in which they are started."""
    writer = [sys.executable, "-m", "hpctrain.agent", "writer", "--run-dir", str(run_dir)]
    # A file beside the recipe, such as random.py, must not become the writer's random module.
    writer_env = {**env, "PYTHONSAFEPATH": "1"}
    return [
        Helper("keeper", lambda: start_keeper(secret, node, until_pid=agent_pid), "the checkpoints in its memory are lost"),
        Helper("writer", lambda: process.start(writer, env=writer_env, stdin=process.DEVNULL, stdout=process.DEVNULL),
               "what it had not finished is begun again"),
    ]


class TierProcesses:
    """Starts them, and again when they die; a thread of its own does it.

    Args:
        watch, forget: tell the agent's warden of a process group, and that it is gone.
        tasks: called about every :data:`TICK_S` by the same thread; they must not raise.
    """

    def __init__(
        self, children: Sequence[Helper], *, node: str, events: EventWriter, clock: Clock,
        watch: Callable[[int], None] = lambda _: None, forget: Callable[[int], None] = lambda _: None,
        tasks: Sequence[Callable[[], None]] = (),
    ) -> None:
        self._children, self._tasks = children, tasks
        self._node, self._events, self._clock = node, events, clock
        self._watch, self._forget = watch, forget
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiers", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def restart(self, what: str) -> None:
        """End one on purpose; the next one is started at once, and nobody is told."""
        for child in self._children:
            if child.what == what and child.process is not None:
                child.expected = child.process.pid
                process.kill_group(child.process)

    def stop(self) -> None:
        """End both processes. What they have not made durable by now is lost."""
        self._ended.set()
        self._thread.join(END_S)
        for child in self._children:
            if child.process is None:
                continue
            process.kill_group(child.process)
            with contextlib.suppress(process.TimeoutExpired):
                child.process.wait(timeout=END_S)
            self._forget(child.process.pid)

    def _run(self) -> None:
        # Children inherit what a thread has blocked. Slurm signals every process of a step, and these two have work left
        # when the ranks are told to end: only the agent ends them.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while not self._ended.is_set():
            for child in self._children:
                self._tend(child)
            for task in self._tasks:
                task()
            self._ended.wait(TICK_S)

    def _tend(self, child: Helper) -> None:
        now = self._clock.monotonic()
        if child.process is not None:
            code = child.process.poll()
            if code is None:
                self._lives(child, now)
                return
            pid, child.process = child.process.pid, None
            self._forget(pid)
            self._died(child, now, pid, code)
        if now >= child.retry_at_s and not self._ended.is_set():
            self._start(child, now)

    def _start(self, child: Helper, now: float) -> None:
        try:
            child.process = child.start()
        except (WireError, OSError) as error:
            self._failed(child, now, f"cannot be started: {error}")
            return
        self._watch(child.process.pid)
        child.started_s = now

    def _lives(self, child: Helper, now: float) -> None:
        if child.told and now - child.started_s >= STEADY_S:
            child.told = False
            back = f"there is a {child.what} of checkpoints on {self._node} again"
            self._note("checkpoint.recovered", back, child.what, 0)

    def _died(self, child: Helper, now: float, pid: int, code: int) -> None:
        if now - child.started_s > CALM_S:
            child.failures = 0
        if code == 0 or child.expected == pid:
            # The writer ends when the keeper does; a keeper, when there is one of this node already, of an agent that is
            # just ending.
            child.retry_at_s = now + FIRST_DELAY_S
            return
        self._failed(child, now, f"{describe_exit(code)}: {child.loss}", -code if code < 0 else 0)

    def _failed(self, child: Helper, now: float, why: str, number: int = 0) -> None:
        delay = min(FIRST_DELAY_S * 2**child.failures, LONGEST_DELAY_S)
        child.failures += 1
        child.retry_at_s = now + delay
        if not child.told:
            child.told = True
            self._note("checkpoint.degraded", f"the {child.what} of checkpoints on {self._node} {why}", child.what, number)

    def _note(self, kind: str, reason: str, what: str, number: int) -> None:
        evidence = {"tier": "ram", "process": what, **({"signal": number} if number else {})}
        self._events.note(kind, reason, node=self._node, evidence=evidence)
