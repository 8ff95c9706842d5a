"""The coordinator's end of all agents: who is there, what they say, who is silent (service)."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain import process
from hpctrain.agent.channel import Hub, Line
from hpctrain.agent.heartbeats import beat_of
from hpctrain.clock import Clock
from hpctrain.detect.beat import RankBeat
from hpctrain.errors import HpctrainError

PING_S = 1.0
RECONNECT_S = 1.0
"""An agent whose connection breaks has so long to call again; one that is dead does not."""
HELLO_S = 10.0
"""Whoever has called has so long to say who it is."""
ENLIST_S = 60.0
"""A step that was to bring up an agent, and has not in this time, is ended."""


@dataclass(slots=True)
class Agent:
    """What is known of one node's agent.

    Attributes:
        heard_s: when it was last heard, on the monotonic clock.
        closed_s: when its connection broke, None while there is one.
        offer: where rank 0's store would be on this node.
    """

    node: str
    pid: int
    line: Line
    heard_s: float
    closed_s: float | None = None
    offer: Mapping[str, Any] = field(default_factory=dict)
    term_s: float | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of an agent."""

    node: str
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Silent:
    """An agent that is gone, or says nothing any more, and since when, in seconds."""

    node: str
    why: str
    since_s: float = 0.0


class Agents:
    """Call :meth:`poll` often.

    Attributes:
        beats: the newest of every rank of the present incarnation.
        timings: what the ranks' first step took, by rank, once it is done.

    Args:
        hub: where they call.
        srun: the words that start all agents; changed a little they start one more.
        env: for that step.
        silence_s: an agent that has said nothing for so long counts as gone.
    """

    def __init__(
        self, hub: Hub, clock: Clock, *, srun: Sequence[str], env: Mapping[str, str], silence_s: float,
    ) -> None:
        self._hub, self._clock, self._srun, self._env, self._silence_s = hub, clock, tuple(srun), env, silence_s
        self._strangers: dict[Line, float] = {}
        self._agents: dict[str, Agent] = {}
        self._enlisting: dict[str, tuple[process.Popen[bytes], float]] = {}
        self._last_poll = clock.monotonic()
        self._pinging = threading.Thread(target=self._ping, name="ping", daemon=True)
        self._ended = threading.Event()
        self.alive_s = clock.monotonic()
        self.beats: dict[int, RankBeat] = {}
        self.timings: dict[int, Mapping[str, Any]] = {}
        self._pinging.start()

    # -- waiting -------------------------------------------------------------------------------------------------------

    @property
    def descriptors(self) -> tuple[list[int], list[int]]:
        """For waiting: those to read from, and those to write to."""
        lines = [agent.line for agent in self._agents.values() if not agent.line.closed]
        read = [self._hub.fileno(), *(line.fileno() for line in (*lines, *self._strangers))]
        return read, [line.fileno() for line in lines if line.is_waiting]

    def poll(self) -> list[Heard | Silent]:
        """Everything that has come since the last call."""
        now = self._clock.monotonic()
        self._forgive(now)
        found: list[Heard | Silent] = []
        for line in self._hub.arrived():
            self._strangers[line] = now
        for line in list(self._strangers):
            found += self._greet(line, now)
        for agent in list(self._agents.values()):
            agent.line.push()
            for message in agent.line.receive():
                agent.heard_s = now
                self._note(agent, message)
                found.append(Heard(agent.node, message))
            if (why := self._why_gone(agent, now)) is not None:
                found.append(Silent(agent.node, why, now - (agent.closed_s or agent.heard_s)))
        self._end_late_steps(now)
        return found

    def _forgive(self, now: float) -> None:
        """A coordinator that was stopped, or starved, has heard nobody: that is not their fault."""
        gap = now - self._last_poll
        self._last_poll = self.alive_s = now
        if gap > 2.0:
            for agent in self._agents.values():
                agent.heard_s += gap
                agent.closed_s = None if agent.closed_s is None else agent.closed_s + gap

    def _greet(self, line: Line, now: float) -> list[Heard | Silent]:
        messages = line.receive()
        if messages and messages[0].get("t") == "hello":
            del self._strangers[line]
            node = str(messages[0].get("node"))
            if (old := self._agents.get(node)) is not None:
                old.line.close()
            agent = self._agents[node] = Agent(node, int(messages[0].get("pid", 0)), line, now)
            for message in messages:
                self._note(agent, message)
            return [Heard(node, message) for message in messages]
        if messages or line.closed or now - self._strangers[line] > HELLO_S:
            line.close()
            del self._strangers[line]
        return []

    def _note(self, agent: Agent, message: Mapping[str, Any]) -> None:
        kind = message.get("t")
        if "offer" in message:
            agent.offer = message["offer"]
        if kind == "term":
            agent.term_s = self._clock.monotonic()
        if kind == "beat":
            for one in message.get("ranks", ()):
                rank, heartbeat = int(one["rank"]), one.get("heartbeat") or {}
                self.beats[rank] = beat_of(one, agent.node, int(message.get("incarnation", -1)), self._clock.time())
                if "timings" in heartbeat and heartbeat.get("incarnation") == message.get("incarnation"):
                    self.timings[rank] = heartbeat["timings"]

    def _why_gone(self, agent: Agent, now: float) -> str | None:
        if agent.line.closed:
            agent.closed_s = agent.closed_s if agent.closed_s is not None else now
            return "its agent is gone" if now - agent.closed_s >= RECONNECT_S else None
        if now - agent.heard_s > self._silence_s:
            return f"its agent has said nothing for {now - agent.heard_s:.1f} s"
        return None

    # -- speaking ------------------------------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[str]:
        """Nodes whose agents are there."""
        return [node for node, agent in self._agents.items() if not agent.line.closed]

    def offer(self, node: str) -> Mapping[str, Any]:
        """Where rank 0's store would be on a node."""
        agent = self._agents.get(node)
        return agent.offer if agent is not None else {}

    def told_to_end(self) -> dict[str, float]:
        """Nodes whose agents were sent SIGTERM, with when that was heard."""
        return {node: agent.term_s for node, agent in self._agents.items() if agent.term_s is not None}

    def send(self, nodes: Iterable[str], message: Mapping[str, Any]) -> None:
        """Send one message to several; those who are gone are passed over."""
        for node in nodes:
            if node in self._agents:
                self._agents[node].line.send(message)

    def forget(self, node: str) -> None:
        """Hang up; whoever calls from that node later is somebody new."""
        if (agent := self._agents.pop(node, None)) is not None:
            agent.line.close()
        for rank in [rank for rank, beat in self.beats.items() if beat.node == node]:
            del self.beats[rank]

    def begin(self) -> None:
        """New ranks: what is known of the old ones counts no more."""
        self.beats.clear()
        self.timings.clear()

    def enlist(self, node: str) -> str:
        """Start a step on a node of the allocation that brings up an agent there; what went wrong, "" if nothing did."""
        if node in self._enlisting and self._enlisting[node][0].poll() is None:
            return ""
        try:
            step = process.start(one_more(self._srun, node), env=self._env)
        except HpctrainError as error:
            return str(error)
        self._enlisting[node] = (step, self._clock.monotonic())
        return ""

    def _end_late_steps(self, now: float) -> None:
        for node, (step, since) in list(self._enlisting.items()):
            if step.poll() is not None:
                del self._enlisting[node]
            elif node not in self._agents and now - since > ENLIST_S:
                process.kill_group(step)

    def close(self) -> None:
        """Hang up on all."""
        self._ended.set()
        self._hub.close()
        for agent in self._agents.values():
            agent.line.close()
        for node, (step, _) in self._enlisting.items():
            if node in self._agents:
                with contextlib.suppress(process.TimeoutExpired):
                    step.wait(timeout=2)
            if step.poll() is None:
                process.kill_group(step)

    def _ping(self) -> None:
        """In a thread: while the main loop waits for a slow file system, the agents must not think that we are dead."""
        while not self._ended.wait(PING_S):
            for agent in list(self._agents.values()):
                agent.line.send({"t": "ping", "time": time.time()})


def one_more(srun: Sequence[str], node: str) -> list[str]:
    """The words that start one more agent, on a node where the job's first step has none any more.

    ``--overlap``: the first step still holds all that the job has of the node; ``--mem=0``: of its memory, too, which
    ``--overlap`` does not cover (tried with Slurm 22.05).
    """
    head, *rest = srun
    kept = [word for word in rest if not word.startswith(("--nodes=", "--ntasks=", "--nodelist="))]
    return [head, "--overlap", "--mem=0", "--nodes=1", "--ntasks=1", f"--nodelist={node}", *kept]
