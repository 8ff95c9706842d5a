"""The job's batch step: start a process on every node, then lead the rounds of pairs (service)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from hpctrain.health.deep.baseline import Baseline, key
from hpctrain.health.deep.files import DeepFiles
from hpctrain.health.deep.measurement import PAIR_METRIC, Status
from hpctrain.health.deep.pairing import Outcome, Pair, next_round
from hpctrain.health.deep.plan import DeepPlan
from hpctrain.health.deep.wire import Hall, Message

_GRACE_S = 60.0
_ARRIVAL_S = 120.0
"""A node whose process has not come by then is not waited for."""
_POLL_S = 0.2


class Step(Protocol):
    """The running srun."""

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""

    def wait(self) -> int:
        """Wait for it."""


class Conductor:
    """Leads the rounds of one job.

    Args:
        start: starts srun; given the port of the hall, 0 where there are no rounds.
    """

    def __init__(self, files: DeepFiles, job: int, start: Callable[[int], Step]) -> None:
        self._files, self._job, self._start = files, job, start
        self._plan: DeepPlan = files.plan()
        self._nodes = self._plan.jobs[job].nodes
        self._ports: dict[str, int] = {}

    def run(self) -> int:
        """Until srun has ended; returns its exit status."""
        if not self._plan.pairwise:
            return self._start(0).wait()
        hall = Hall(self._files.secret())
        step = self._start(hall.port)
        ready = self._gather(hall, step)
        self._ports = {node: int(message["port"]) for node, message in ready.items()}
        kinds = {node: str(message["kind"]) for node, message in ready.items()}
        for kind in sorted(set(kinds.values())):
            self._rounds(hall, kind, [node for node in self._nodes if kinds.get(node) == kind])
        for node in list(hall.hellos):
            hall.say(node, {"done": True})
        return step.wait()

    def _gather(self, hall: Hall, step: Step) -> dict[str, Message]:
        """What the nodes say that have done their own checks and can take part.

        It waits for nodes that are at work, but no longer than their checks may take; not for those that never came, nor for
        those whose process is gone.
        """
        begun, longest_s = time.monotonic(), _GRACE_S + (len(self._plan.checks) + 1) * self._plan.sizes.check_s
        ready: dict[str, Message] = {}
        out: set[str] = set()
        while (spent := time.monotonic() - begun) < _ARRIVAL_S + longest_s and step.poll() is None:
            came = set(hall.hellos)
            missing = set(self._nodes) - set(ready) - out
            if not (missing & came) and (not missing or spent > _ARRIVAL_S):
                break
            heard = hall.hear(_POLL_S)
            if heard is None:
                continue
            node, message = heard
            if message is None or message.get("ready") is False:
                ready.pop(node, None)
                out.add(node)
            elif message.get("ready"):
                ready[node] = message
        return ready

    def _rounds(self, hall: Hall, kind: str, nodes: list[str]) -> None:
        stored = self._plan.stored.get(key(kind, self._plan.profile), {}).get(PAIR_METRIC)
        outcomes: list[Outcome] = []
        number, alive = 0, list(nodes)
        while pairs := self._next(alive, outcomes, stored):
            number += 1
            replies = self._play(hall, number, pairs)
            for first, second in pairs:
                if first in replies and second in replies:
                    outcomes.append(_outcome(number, (first, second), replies))
                    self._write(outcomes[-1], kind)
            asked = {node for pair in pairs for node in pair}
            alive = [node for node in alive if node not in asked or node in replies]

    def _next(self, alive: Sequence[str], outcomes: Sequence[Outcome], stored: Baseline | None) -> list[Pair]:
        return next_round(alive, outcomes, stored, self._plan.band) if len(alive) > 1 else []

    def _play(self, hall: Hall, number: int, pairs: Sequence[Pair]) -> dict[str, Message]:
        """One round; the answers of the nodes that gave one in time."""
        waiting: set[str] = set()
        for first, second in pairs:
            hello = hall.hellos[first]
            place = {"round": number, "address": hello["address"], "port": self._ports[first]}
            if hall.say(first, {**place, "first": True}) and hall.say(second, {**place, "first": False}):
                waiting |= {first, second}
        replies: dict[str, Message] = {}
        until = time.monotonic() + self._plan.sizes.pair_s + _GRACE_S
        while waiting and (left := until - time.monotonic()) > 0:
            heard = hall.hear(left)
            if heard is None:
                break
            node, message = heard
            if message is None:
                waiting.discard(node)
            elif message.get("round") == number and node in waiting:
                replies[node] = message
                waiting.discard(node)
        return replies

    def _write(self, outcome: Outcome, kind: str) -> None:
        record = {
            "round": outcome.round, "first": outcome.first, "second": outcome.second, "value": outcome.value,
            "corrupt": outcome.corrupt, "detail": outcome.detail, "kind": kind,
        }  # fmt: skip
        self._files.tell_pair(self._job, record)


def _outcome(number: int, pair: Pair, replies: Mapping[str, Message]) -> Outcome:
    """The worse of what the two nodes say."""
    both = [replies[node] for node in pair]
    if failed := [one for one in both if one["status"] == Status.FAILED.value]:
        return Outcome(number, *pair, None, detail=str(failed[0]["detail"]))
    if wrong := [one for one in both if one["status"] == Status.CORRUPT.value]:
        return Outcome(number, *pair, None, corrupt=True, detail=str(wrong[0]["detail"]))
    return Outcome(number, *pair, min(float(one["value"]) for one in both))
