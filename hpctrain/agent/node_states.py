"""Asks Slurm now and then how the job's nodes stand, in a thread of its own (service)."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError
from hpctrain.ids import NodeName
from hpctrain.slurm.port import Slurm

ASK_S = 30.0
"""One small query per job and half minute; the node's own agent is the one that knows first."""
URGENT_S = 1.0
"""While the job waits for a node to come back."""
DOWN = ("DOWN", "FAIL")
UNANSWERED = ("NOT_RESPONDING", "POWERED_DOWN", "POWERING_DOWN")


class NodeStates:
    """Of one job's nodes."""

    def __init__(self, slurm: Slurm, nodes: Sequence[NodeName], clock: Clock) -> None:
        self._slurm, self._nodes, self._clock = slurm, tuple(nodes), clock
        self._found: deque[tuple[str, dict[str, Any]]] = deque(maxlen=10_000)
        self._ended, self._hurry = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="states", daemon=True)

    def start(self) -> None:
        """Begin; the first question comes after :data:`ASK_S`."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more; an answer that is under way is not waited for."""
        self._ended.set()
        self._hurry.set()

    def be_urgent(self, urgent: bool) -> None:
        """Ask at once, and every second, or no longer."""
        if urgent:
            self._hurry.set()
        elif not self._ended.is_set():
            self._hurry.clear()

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """Reports since the last call, as :mod:`hpctrain.detect.node_health` reads them, each with its node."""
        found = []
        while self._found:
            found.append(self._found.popleft())
        return found

    def _run(self) -> None:
        while not self._ended.is_set():
            if self._hurry.wait(ASK_S) and self._ended.wait(URGENT_S):
                return
            try:
                nodes = self._slurm.nodes(self._nodes)
            except HpctrainError:
                continue  # a controller that does not answer says nothing about nodes
            for node in nodes:
                state = "+".join((node.state, *sorted(node.flags)))
                is_down = node.state.startswith(DOWN) or bool(node.flags & set(UNANSWERED))
                report = {"kind": "slurm", "time": self._clock.time(), "state": state, "reason": node.reason or "",
                          "is_down": is_down}
                self._found.append((node.name, report))
