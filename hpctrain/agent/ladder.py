"""The recovery ladder inside one allocation: events in, commands out (pure, standard library only).

::

    GATHER   agents call in; enough of them: START
    RUN      ranks are at work; trouble: KILL
    KILL     all ranks of the job are being killed, on all nodes; all gone, or their nodes lost: judge
             enough nodes left: START the next incarnation (R1 on the same nodes, R2 with a spare)
             too few: MEND
    MEND     a new agent is wanted on a node whose agent is gone; it calls in: START; it does not: OVER (R3)
    OVER     the end of this start, with how it ended; :mod:`hpctrain.agent.decide` says what becomes of the job

Time is in the events. Nothing here knows how ranks are killed or agents reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from hpctrain.agent.decide import End, History, attempt_of, describe_cause, hopeless
from hpctrain.agent.ladder_model import (
    Command,
    Detected,
    Down,
    Ended,
    Event,
    Fault,
    Finish,
    Forget,
    Joined,
    Kill,
    Killed,
    Lost,
    Mend,
    NotStarted,
    Signalled,
    Stage,
    Start,
    StepEnded,
    Stop,
    StopAsked,
    Tick,
)
from hpctrain.agent.ladder_state import LadderState
from hpctrain.agent.rank_plan import RankPlan, plan_ranks
from hpctrain.ids import Incarnation, NodeName
from hpctrain.slurm.model import JobState
from hpctrain.watchdog.budget import Attempt, Cause, Verdict, judge

GATHER_S = 120.0
"""A node whose agent has not called by now counts as lost."""
SPARES_S = 5.0
"""When enough agents are there to train, the others have so long to join before places are given away."""
KILL_S = 20.0
"""Ranks that cannot be killed (stuck in a driver or a dead file system) are not waited for longer: their node is lost."""
MEND_S = 15.0
"""A node whose agent is gone has so long to bring up another one."""
LAST_RANKS_S = 600.0
"""When some ranks of our trainer are done, the others have so long to be, too."""


_ALLOWED = Verdict(True, "", "")


class Ladder(LadderState):
    """The machine: feed it events, carry out its commands."""

    # -- what comes in -------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Command]:
        """Take one event; what is to be done now, in this order."""
        if self.stage is Stage.OVER:
            return []
        handler = {
            Joined: self._joined, Lost: self._lost_node, Down: self._down, Ended: self._ended, Killed: self._killed,
            NotStarted: self._not_started, Detected: self._detected, StopAsked: self._stop, Signalled: self._signalled,
            StepEnded: self._step_ended, Tick: self._tick,
        }[type(event)]
        commands: list[Command] = handler(event)  # type: ignore[operator]  # each handler takes its own event
        return commands

    def adopt(self, ranks: RankPlan) -> None:
        """Before the first event: another coordinator had started these ranks, and they may still be at work."""
        self.ranks = ranks

    def _joined(self, event: Joined) -> list[Command]:
        if event.node not in self.nodes:
            return [Forget(event.node)]
        self._began = self._began if self._began is not None else event.time
        known = event.node in self.live
        self.live.add(event.node)
        self._down_nodes.discard(event.node)
        self._lost.pop(event.node, None)
        if self.stage is Stage.GATHER:
            self._take_over(event)
            return self._gather(event.time)
        if self.stage is Stage.MEND:
            return self._mended(event.time)
        mine = self.ranks is not None and event.node in self.ranks.nodes
        if self.stage is Stage.KILL or not mine or self.ranks is None:
            return self._rejoined_while_killing(event) if self.stage is Stage.KILL else []
        if event.incarnation == self.ranks.incarnation:
            return self._ended(Ended(event.time, event.node, event.incarnation, event.exits))
        why = "its agent has started again" if known else "its agent was gone for a time"
        return self._fail(event.time, Cause.AGENT, f"the ranks of {event.node} are gone: {why}", "agent_heartbeat",
                          nodes=(event.node,))

    def _rejoined_while_killing(self, event: Joined) -> list[Command]:
        """An agent that calls again with our ranks has still to kill them; one without has none to kill."""
        if self.ranks is not None and event.incarnation == self.ranks.incarnation and event.alive:
            return [Kill(self.ranks.incarnation, "the other ranks are killed")]
        self._take(event.exits)
        self._waiting.discard(event.node)
        return self._judge(event.time) if not self._waiting else []

    def _lost_node(self, event: Lost) -> list[Command]:
        self.live.discard(event.node)
        self._lost[event.node] = event.why
        commands: list[Command] = [Forget(event.node)]
        if self.stage is Stage.GATHER:
            return commands + self._gather(event.time)
        if self.stage is Stage.RUN and self.ranks is not None and event.node not in self.ranks.nodes:
            return [*commands, Mend((event.node,))]  # a spare: nothing is lost but the spare
        if self.stage is Stage.RUN:
            return commands + self._fail(event.time, Cause.NODE, f"node {event.node} was lost: {event.why}",
                                         "agent_heartbeat", fault_time=event.since, nodes=(event.node,))
        self._waiting.discard(event.node)
        if self.stage is Stage.KILL and not self._waiting:
            commands += self._judge(event.time)
        return commands

    def _down(self, event: Down) -> list[Command]:
        """Waiting for a node that is down would only cost time; one that says the contrary by its agent is believed."""
        if self.stage is not Stage.MEND or event.node in self.live:
            return []
        self._down_nodes.add(event.node)
        possible = [node for node in self.nodes if node in self.live or node not in self._down_nodes]
        return self._give_up(event.time) if len(possible) < self.wanted else []

    def _ended(self, event: Ended) -> list[Command]:
        if self.ranks is None or event.incarnation != self.ranks.incarnation:
            return []
        self._take(event.exits)
        if self.stage is not Stage.RUN:
            return []
        failed = [one for one in event.exits if self._is_failure(one)]
        if failed:
            first = min(failed, key=lambda one: one.time)
            return self._fail(
                event.time, Cause.RANK, first.describe(), "pidfd", fault_time=first.time, ranks=(first.rank,),
                nodes=(first.node,), signal=max(-first.returncode, 0), exit_code=max(first.returncode, 0))
        if self._first_done is None:
            self._first_done = event.time
        return self._all_ended(event.time)

    def _killed(self, event: Killed) -> list[Command]:
        if self.ranks is None or event.incarnation != self.ranks.incarnation:
            return []
        self._take(event.exits)
        self._waiting.discard(event.node)
        if self.stage is Stage.KILL and not self._waiting:
            return self._judge(event.time)
        return []

    def _not_started(self, event: NotStarted) -> list[Command]:
        if self.ranks is None or event.incarnation != self.ranks.incarnation or self.stage is not Stage.RUN:
            return []
        self._problem, self._exit_code = event.problem, event.exit_code
        return self._fail(event.time, Cause.UNKNOWN, event.problem, "agent", nodes=(event.node,))

    def _detected(self, event: Detected) -> list[Command]:
        found = event.detection
        if found.action == "swap":
            self._sick |= set(found.nodes)
        if self.stage is not Stage.RUN or found.action == "alert" or self.ranks is None:
            return []
        if found.action == "swap" and found.nodes and not set(found.nodes) & set(self.ranks.nodes):
            return []  # a spare: it will take nobody's place
        self._detection = found
        if found.action == "stop":
            self._hopeless = found.reason
        return self._fail(
            event.time, Cause(found.cause), found.reason, found.detector, fault_time=found.fault_time, ranks=found.ranks,
            nodes=found.nodes, stacks=found.stacks)

    def _stop(self, event: StopAsked) -> list[Command]:
        if self._stop_reason or self.stage is Stage.KILL:
            return []
        self._stop_reason = event.reason
        if self.stage is Stage.RUN:
            return [Stop(event.reason)]
        return self._over(event.time, stopped=True)  # nothing runs: nothing is to be saved

    def _signalled(self, event: Signalled) -> list[Command]:
        self._terminated, self._job_state = True, event.job_state
        if event.job_state is JobState.RUNNING:
            return self._stop(StopAsked(event.time, "the job was sent SIGTERM"))
        if self.stage is Stage.KILL:
            return []
        if self.stage is not Stage.RUN or self.ranks is None:
            return self._over(event.time)
        said = event.job_state.value if event.job_state else "no answer"
        return self._kill(event.time, f"Slurm ends the job ({said})")

    def _step_ended(self, event: StepEnded) -> list[Command]:
        if self.live:
            return []  # agents are held by steps of their own, or are about to hang up
        self._problem = self._problem or f"srun ended with exit code {event.exit_code}"
        self._exit_code = self._exit_code or event.exit_code or 1
        return self._over(event.time, cause=Cause.UNKNOWN)

    def _tick(self, event: Tick) -> list[Command]:
        if event.best_step is not None:
            self._best_step = max(event.best_step, self._best_step or 0)
        self._began = self._began if self._began is not None else event.time
        if self.stage is Stage.GATHER:
            return self._gather(event.time)
        if self.stage is Stage.KILL and event.time >= self._deadline:
            stuck = sorted(self._waiting)
            self._lost.update(dict.fromkeys(stuck, "its ranks cannot be killed"))
            self.live -= set(stuck)
            self._waiting.clear()
            return [*(Forget(node) for node in stuck), *self._judge(event.time)]
        if self.stage is Stage.MEND and event.time >= self._deadline:
            return self._give_up(event.time)
        late = self._first_done is not None and event.time - self._first_done > LAST_RANKS_S
        if self.stage is Stage.RUN and late and self.limits.is_trainer and self.ranks is not None:
            left = tuple(rank for rank in range(self.ranks.world_size) if rank not in self.exits)
            return self._fail(event.time, Cause.HANG, f"ranks {_list(left)} do not end although others are done", "hang",
                              ranks=left, stacks=True)
        return []

    # -- gathering -----------------------------------------------------------------------------------------------------

    def _take_over(self, event: Joined) -> None:
        if self.ranks is not None and event.incarnation == self.ranks.incarnation:
            self._take(event.exits)
            self._adopted.add(event.node)

    def _gather(self, now: float) -> list[Command]:
        began = self._began if self._began is not None else now
        if self.ranks is not None:
            return self._adopt_or_restart(now, began)
        answered = self.live | set(self._lost)
        if len(self.live) >= self.wanted and self._enough is None:
            self._enough = now
        waited = self._enough is not None and now - self._enough >= SPARES_S
        if len(self.live) >= self.wanted and (answered >= set(self.nodes) or waited):
            return self._start(now, "", None, "")
        if now - began < GATHER_S:
            return []
        silent = [node for node in self.nodes if node not in self.live]
        self._lost.update({node: "its agent never called" for node in silent if node not in self._lost})
        return self._over(now, cause=Cause.NODE)

    def _adopt_or_restart(self, now: float, began: float) -> list[Command]:
        """A coordinator is dead and we are its successor: ranks that all live need not even hear of it."""
        assert self.ranks is not None  # noqa: S101 - for the type checker: the caller has looked
        adopted = self._adopted
        training = set(self.ranks.nodes)
        if training <= adopted:
            self.stage, self.started = Stage.RUN, now
            failed = [one for one in self.exits.values() if self._is_failure(one)]
            return self._ended(Ended(now, "", self.ranks.incarnation, tuple(failed))) if failed else self._all_ended(now)
        heard = self.live | set(self._lost)
        if training <= heard or now - began > SPARES_S * 2:
            self.stage, self.started = Stage.RUN, now
            gone = tuple(node for node in self.ranks.nodes if node not in adopted)
            self._lost.update({node: "its agent did not call" for node in gone if node not in self.live})
            why = f"{', '.join(gone)} lost the ranks while there was no coordinator"
            return self._fail(now, Cause.COORDINATOR, why, "coordinator", nodes=gone)
        return []

    # -- failing -------------------------------------------------------------------------------------------------------

    def _fail(
        self, now: float, cause: Cause, reason: str, detected_by: str, *, fault_time: float = 0.0,
        ranks: tuple[int, ...] = (), nodes: tuple[str, ...] = (), signal: int = 0, exit_code: int = 0, stacks: bool = False,
    ) -> list[Command]:
        self._fault = Fault(now, min(fault_time or now, now), cause, reason, detected_by, ranks, nodes, signal, exit_code)
        return [self._fault, *self._kill(now, reason, stacks=stacks)]

    def _kill(self, now: float, reason: str, *, stacks: bool = False) -> list[Command]:
        assert self.ranks is not None  # noqa: S101 - for the type checker: only called while ranks run
        self.stage, self._deadline = Stage.KILL, now + KILL_S
        self._waiting = {str(node) for node in self.ranks.nodes} & self.live
        commands: list[Command] = [Kill(self.ranks.incarnation, reason, stacks)]
        return commands if self._waiting else commands + self._judge(now)

    def _judge(self, now: float) -> list[Command]:
        """All ranks are gone: what now?"""
        end = self._end(now)
        if self._terminated or self._stop_reason:
            return self._finish(end, now, "R3")
        rung = "R1" if not self._lost_training() else "R2"
        attempt = attempt_of(end, self.history, rung, now)
        verdict = self._verdict(attempt, now)
        if not self.in_place or not verdict.restart or hopeless(end, self.limits):
            return self._finish(end, now, "R3")
        avoid: AbstractSet[str] = self._avoid(verdict)
        if len(self.live - avoid) < self.wanted:
            if self._detection is not None and self._detection.action == "swap":
                return self._finish(end, now, "R3")  # the node must go, and there is none in its place
            avoid = frozenset()
        if len(self.live - avoid) >= self.wanted:
            return self._start(now, rung if not avoid else "R2", attempt, describe_cause(end), avoid)
        self._pending = (end, attempt, verdict)
        self.stage, self._deadline = Stage.MEND, now + MEND_S
        return [Mend(tuple(node for node in self.nodes if node not in self.live))]

    def _avoid(self, verdict: Verdict) -> set[str]:
        """Nodes that a spare shall take the place of, if there is one."""
        return {*verdict.exclude, *self._sick}

    def _mended(self, now: float) -> list[Command]:
        if self._pending is None or len(self.live) < self.wanted:
            return []
        end, attempt, _ = self._pending
        same = self.ranks is not None and set(self.ranks.nodes) <= self.live
        if same and self._lost.keys().isdisjoint(self.nodes):
            # The node is there and its agent was not: that says nothing against the node.
            end = replace(end, cause=Cause.AGENT if end.cause is Cause.NODE else end.cause)
            attempt = replace(attempt, cause=Cause.AGENT if attempt.cause is Cause.NODE else attempt.cause, nodes=())
        return self._start(now, attempt.rung, attempt, describe_cause(end))

    def _give_up(self, now: float) -> list[Command]:
        """No agent came back: the allocation is lost."""
        assert self._pending is not None  # noqa: S101 - for the type checker: set with the stage
        return self._finish(self._pending[0], now, "R3")

    # -- starting and ending -------------------------------------------------------------------------------------------

    def _start(
        self, now: float, rung: str, attempt: Attempt | None, reason: str, avoid: AbstractSet[str] = frozenset(),
    ) -> list[Command]:
        if attempt is not None:
            attempt = replace(attempt, rung=rung)
            self.attempts.append(attempt)
        incarnation = Incarnation(self.history.incarnation + 1)
        places = [NodeName(node) for node in self.nodes if node in self.live and node not in avoid]
        self.ranks = plan_ranks(places, self.wanted, self.ranks_per_node, incarnation, self.ranks)
        self.history = History(incarnation, self._best_step)
        self.stage, self.started = Stage.RUN, now
        self.exits.clear()
        self._fault = self._detection = self._pending = self._first_done = None
        self._problem, self._exit_code, self._hopeless = "", 0, ""
        return [Start(self.ranks, rung, attempt, reason)]

    def _all_ended(self, now: float) -> list[Command]:
        if self.ranks is None or len(self.exits) < self.ranks.world_size:
            return []
        return self._over(now)

    def _over(self, now: float, *, stopped: bool = False, cause: Cause | None = None) -> list[Command]:
        end = self._end(now)
        if stopped:
            end = replace(end, stopped=True)
        if cause is not None:
            end = replace(end, cause=cause)
        return self._finish(end, now, "R3")

    def _finish(self, end: End, now: float, rung: str) -> list[Command]:
        self.stage = Stage.OVER
        if end.done:
            return [Finish(end, _ALLOWED)]
        attempt = attempt_of(end, self.history, rung, now)
        return [Finish(end, self._verdict(attempt, now), attempt)]

    def _verdict(self, attempt: Attempt, now: float) -> Verdict:
        return judge([*self.attempts, attempt], self.budget, now=now, nodes_usable=None, nodes_needed=self.wanted)


def _list(ranks: Sequence[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return f"{shown} and {len(ranks) - 8} more" if len(ranks) > 8 else shown

