"""The node agent: does on one node what the coordinator says, and tells it what happens there (service).

One agent runs per node of the allocation, as the only task of the job's ``srun`` there; spares have one, too. Messages, each
a JSON object with its kind in ``t``::

    agent                                                coordinator
      hello    node, pid, incarnation, alive, exits, offer  -->      offer: where rank 0's store would be on this node
      beat     time, ranks                                  -->      twice a second
      ended    incarnation, exits                           -->      at once when a rank ends
      killed   incarnation, exits, offer                    -->      all are gone, with the reasons they left
      failed   incarnation, error, exit_code                -->      the ranks could not be started
      term                                                  -->      this agent was sent SIGTERM
      lines    incarnation, rank, lines                     -->      lines that a rule of the recipe asks for
      stacks   incarnation, stacks                          -->      where each rank was, before it was killed
      saved                                                 -->      the answer to flush and to drain
      <--  ping
      <--  start    ranks, rendezvous
      <--  kill     incarnation, reason, stacks
      <--  stop     reason
      <--  flush    reason, living      save what only memory holds
      <--  drain                        let the writer finish
      <--  exit     code

An agent that loses its coordinator decides by :mod:`hpctrain.agent.orphan`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hpctrain.agent.announcer import announce
from hpctrain.agent.channel import Line
from hpctrain.agent.coordinator_file import RENEW_S, read_state
from hpctrain.agent.coordinator_link import CoordinatorLink, place_of
from hpctrain.agent.flusher import Deadline
from hpctrain.agent.launcher import Launcher
from hpctrain.agent.local_dir import claim, remove_abandoned
from hpctrain.agent.node_extras import NodeExtras
from hpctrain.agent.node_ranks import NodeRanks
from hpctrain.agent.node_report import NodeReport
from hpctrain.agent.node_tiers import PAUSE_S, open_tiers
from hpctrain.agent.orphan import ORPHANS, Fate, fate
from hpctrain.agent.output import OutputWriter
from hpctrain.agent.predecessor import end_predecessors, leave_note
from hpctrain.agent.rank_environment import COORDINATOR, Rendezvous
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_process import Warden
from hpctrain.agent.rank_result import RankExit, outcome_of
from hpctrain.agent.relay import Relay
from hpctrain.agent.rendezvous import own_address
from hpctrain.agent.requeue_alone import RequeueAlone
from hpctrain.agent.wakeup import Wakeup
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError
from hpctrain.ids import NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.text import plural
from hpctrain.jobs.writer import EventWriter
from hpctrain.network import HeldPort
from hpctrain.submit.plan_model import Plan

BEAT_S = 0.5
LOOP_S = 0.25
TERM_PATIENCE_S = 8.0
"""After SIGTERM the coordinator has this long to say whether to save or to end; then the ranks are killed."""
SAVE_AFTER_TERM_S = 20.0
"""Slurm's KillWait is 30 s by default: then everything is killed."""
END_S = 3.0


class NodeAgent:
    """The agent of one node, for one start of the job.

    Args:
        node: this node, as Slurm names it.
        secret: of the job.
        env: the agent's own environment, which the ranks inherit.
        alone: has the job queued again when there is no coordinator any more.
    """

    def __init__(
        self, plan: Plan, run_dir: RunDir, *, node: NodeName, secret: bytes, events: EventWriter, clock: Clock,
        env: Mapping[str, str], alone: RequeueAlone,
    ) -> None:
        self.plan, self.run_dir, self.node = plan, run_dir, node
        self._secret, self._events, self._clock, self._env, self._alone = secret, events, clock, env, alone
        self._job, self._restarts = env.get("SLURM_JOB_ID", "0"), int(env.get("SLURM_RESTART_COUNT") or 0)
        self._output = OutputWriter(clock)
        self._relay = Relay(run_dir.progress)
        self._ranks: NodeRanks | None = None
        self._present: RankPlan | None = None
        self._killing = self._told_end = False
        self._stop_reason = ""
        self._offer: HeldPort | None = None
        self._term_deadline: float | None = None
        self._exit: int | None = None
        self._next_beat = float("-inf")
        self._seen: tuple[int, float] | None = None
        self._alone_next: float | None = None
        self._link = CoordinatorLink(run_dir, secret, clock, place_of(env.get(COORDINATOR, "")), self._greet)

    def run(self) -> int:
        """Serve until told to end. Returns the agent's exit code."""
        with Wakeup((signal.SIGTERM, signal.SIGINT)) as wakeup:
            remove_abandoned(self._clock.time())
            # Nodes of private clusters share a host, and job numbers begin again on each: the run tells them apart.
            whose = f"{self._job} {self.run_dir.path}"
            end_predecessors(whose, self.node)
            local_dir, lock = claim(self._job, self.node)
            leave_note(local_dir, whose, self.node)
            warden = self._warden = Warden(local_dir)
            self._local_dir = local_dir
            self._launcher = Launcher(
                self.plan, node=self.node, env=self._env, clock=self._clock, say=self._output.say, watch=warden.watch,
                forget=warden.forget)
            self._tiers = open_tiers(
                self.plan, self.run_dir, node=self.node, events=self._events, clock=self._clock, env=self._env)
            self._extras = NodeExtras(self.plan, self.run_dir, self.node, self._env, self._clock)
            try:
                self._launcher.start()
                if self._tiers is not None:
                    self._tiers.start(warden.watch, warden.forget)
                self._relay.start()
                self._serve(wakeup)
                return self._exit or 0
            except HpctrainError as error:
                self._output.say(f"error on {self.node}: {error}")
                return error.exit_code
            finally:
                self._end(warden, lock)

    def _end(self, warden: Warden, lock: int) -> None:
        if self._ranks is not None:
            self._ranks.kill()
        self._launcher.stop()
        if self._tiers is not None:
            self._tiers.stop()
        self._relay.finish(END_S)
        self._link.close()
        warden.close()
        os.close(lock)
        if self._offer is not None:
            self._offer.close()
        self._output.close(END_S)

    def _serve(self, wakeup: Wakeup) -> None:
        while self._exit is None:
            for message in self._tend(wakeup):
                self._obey(message, wakeup)
            self._look_at_ranks(wakeup)
            self._look_at_coordinator(wakeup)
            read, write = self._link.descriptors
            busy = self._ranks.descriptors if self._ranks is not None else []
            # A rank whose kill is under way is polled: its end may have no descriptor.
            wakeup.wait(0.005 if self._killing else LOOP_S, [*read, *busy], write)

    def _tend(self, wakeup: Wakeup) -> list[dict[str, Any]]:
        """What must go on while something else is waited for: signals, beats, messages."""
        if self._alone_next is not None and self._clock.monotonic() >= self._alone_next:
            self._alone_next = self._clock.monotonic() + RENEW_S
            self._say_that_we_live()
        if wakeup.take(signal.SIGTERM) or wakeup.take(signal.SIGINT):
            self._term_deadline = self._clock.monotonic() + TERM_PATIENCE_S
            self._link.send({"t": "term"})
        messages = self._link.tend()
        if self._clock.monotonic() >= self._next_beat:
            self._next_beat = self._clock.monotonic() + BEAT_S
            beat = {"t": "beat", "time": self._clock.time(), **self._extras.report(), "ranks": []}
            if self._ranks is not None:
                beat |= {"incarnation": self._ranks.incarnation, "ranks": self._ranks.beats()}
            self._link.send(beat)
        for rank, lines in self._extras.lines():
            if self._ranks is not None:
                self._link.send({"t": "lines", "incarnation": self._ranks.incarnation, "rank": rank, "lines": lines})
        return messages

    # -- what the coordinator says -------------------------------------------------------------------------------------

    def _greet(self, line: Line) -> None:
        """Say who we are and how it stands here; a successor of the coordinator knows nothing of it."""
        ranks = self._ranks
        if self._offer is None:
            self._offer = HeldPort()
        line.send({
            "t": "hello", "node": self.node, "pid": os.getpid(), "incarnation": ranks.incarnation if ranks else -1,
            "alive": sorted(ranks.pids) if ranks else [], "exits": [one.to_json() for one in ranks.exits] if ranks else [],
            "offer": self._address(),
        })
        if self._term_deadline is not None:
            line.send({"t": "term"})

    def _address(self) -> dict[str, Any]:
        several = self.plan.nodes + self.plan.spares > 1
        addr, interface = own_address(self.plan.interface, several, self._env)
        return {"addr": addr, "port": self._offer.port if self._offer is not None else 0, "interface": interface}

    def _obey(self, message: Mapping[str, Any], wakeup: Wakeup) -> None:
        kind = message.get("t")
        if kind == "start":
            self._start(RankPlan.from_json(message["ranks"]), message["rendezvous"])
        elif kind == "kill" and self._ranks is not None and message["incarnation"] == self._ranks.incarnation:
            if message.get("stacks"):
                texts = self._extras.dump_stacks(self._ranks.pids, self._ranks.incarnation)
                self._link.send({"t": "stacks", "incarnation": self._ranks.incarnation, "stacks": texts})
            if self._told_end and self._ranks.are_gone:
                self._tell_gone(self._ranks)  # a coordinator that has not heard it waits for it
            else:
                self._kill()
        elif kind == "stop" and self._ranks is not None:
            self._stop_reason = str(message["reason"])
            self._ask_to_stop(self._ranks)
        elif kind in ("flush", "drain"):
            self._save(message, wakeup)
        elif kind == "exit":
            self._exit = int(message.get("code", 0))

    def _start(self, ranks: RankPlan, rendezvous: Mapping[str, Any]) -> None:
        if self._ranks is not None and not self._ranks.are_gone:
            self._ranks.kill()  # the coordinator knows better than we do what belongs to the past
        self._relay.source = None
        self._present = ranks
        if self._tiers is not None:
            self._tiers.begin(ranks)
        if not ranks.ranks_of(self.node):
            self._ranks = None
            return
        self._killing = self._told_end = False
        self._stop_reason = ""
        # Where the store listens is one for all; which interface leads there is each node's own matter.
        interface = str(self._address()["interface"])
        where = Rendezvous(str(rendezvous["addr"]), int(rendezvous["port"]), NodeName(rendezvous["node"]), interface)
        self._ranks = NodeRanks(
            self.plan, ranks, node=self.node, local_dir=self._local_dir, launcher=self._launcher, output=self._output,
            env=self._env, clock=self._clock, on_line=self._extras.listener)
        self._where = where
        if not self._launcher.warming:
            self._start_ranks(self._ranks)

    def _start_ranks(self, ranks: NodeRanks) -> None:
        """Start them now: what they are forked from is ready, or will not be."""
        try:
            ranks.start(self._where)
        except HpctrainError as error:
            self._link.send({
                "t": "failed", "incarnation": ranks.incarnation, "error": str(error), "exit_code": error.exit_code})
            return
        self._ask_to_stop(ranks)
        self._relay.source = ranks.heartbeat_of_rank_0()
        pids = ranks.pids
        self._events.note(
            "ranks.started", f"{plural(len(pids), 'rank')} started on {self.node}", node=self.node,
            evidence={
                "incarnation": ranks.incarnation, "ranks": list(pids), "pids": list(pids.values()),
                "master": f"{self._where.addr}:{self._where.port}",
            },
        )

    def _ask_to_stop(self, ranks: NodeRanks) -> None:
        """Now, or as soon as they are started."""
        if self._stop_reason and ranks.is_started and (problem := ranks.ask_to_stop(self._stop_reason)):
            self._output.say(f"error on {self.node}: {problem}")

    def _kill(self) -> None:
        if self._ranks is not None:
            self._killing = True
            self._ranks.kill()

    # -- what the ranks do ---------------------------------------------------------------------------------------------

    def _look_at_ranks(self, wakeup: Wakeup) -> None:
        ranks = self._ranks
        if ranks is None or self._told_end:
            return
        if not ranks.is_started and not self._killing:
            if not self._launcher.warming:  # it is never waited for here: the coordinator must go on hearing of us
                self._start_ranks(ranks)
            return
        ended = ranks.reap(told_by_slurm=self._term_deadline is not None)
        if self._term_deadline is None and any(one.returncode == -signal.SIGTERM and not one.by_agent for one in ended):
            # Slurm signals every process of a step: our own SIGTERM may arrive a moment after the rank died of its.
            self._clock.sleep(0.1)
            ended = self._by_slurm(ended, wakeup)
        if ended:
            self._link.send({"t": "ended", "incarnation": ranks.incarnation, "exits": [one.to_json() for one in ended]})
        stop = self._term_deadline is not None
        if any(ranks.failed(one, stop_requested=stop) for one in ended) and not self._killing:
            self._kill()  # the others of this node can do nothing but wait for it in vain
        if self._killing and ranks.are_gone:
            self._report_gone(ranks)
        elif ranks.are_gone:
            self._told_end = True
            if any(one.by_agent for one in ranks.exits):
                return
            outcome = outcome_of(ranks.exits, is_trainer=self.plan.command.is_trainer, stop_requested=stop, aborted=False)
            self._report(ranks).tell_stopped(outcome)

    def _by_slurm(self, ended: list[RankExit], wakeup: Wakeup) -> list[RankExit]:
        for message in self._tend(wakeup):
            self._obey(message, wakeup)
        if self._term_deadline is None:
            return ended
        return [RankExit(one.rank, one.node, one.returncode, one.time, by_agent=True)
                if one.returncode == -signal.SIGTERM else one for one in ended]

    def _report_gone(self, ranks: NodeRanks) -> None:
        """All are dead: tell it, with the reasons they left, and with a place for the next rank 0."""
        self._told_end, self._killing = True, False
        exits = ranks.explain()
        for group in ranks.groups:
            self._warden.forget(group)
        if self._offer is not None:
            self._offer.close()
        self._offer = HeldPort()
        self._tell_gone(ranks)
        stop = self._term_deadline is not None
        failed = [one for one in exits if ranks.failed(one, stop_requested=stop)]
        self._report(ranks).tell_failures(failed)

    def _tell_gone(self, ranks: NodeRanks) -> None:
        self._link.send({
            "t": "killed", "incarnation": ranks.incarnation, "exits": [one.to_json() for one in ranks.exits],
            "offer": self._address()})

    def _report(self, ranks: NodeRanks) -> NodeReport:
        return NodeReport(self.run_dir, ranks.ranks.incarnation, self.node, self._events, self._output.say)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _save(self, message: Mapping[str, Any], wakeup: Wakeup) -> None:
        """Save what memory holds, or wait for the writer; then say so."""
        if self._tiers is not None and message["t"] == "flush":
            self._tiers.flush(str(message["reason"]), [str(node) for node in message["living"]],
                              lambda deadline: self._pause(deadline, wakeup))
        elif self._tiers is not None:
            self._tiers.drain(lambda deadline: self._pause(deadline, wakeup))
        self._link.send({"t": "saved"})

    def _pause(self, deadline: Deadline, wakeup: Wakeup) -> None:
        """Wait a moment for the checkpoint tiers; less time is left once Slurm ends the step."""
        _, write = self._link.descriptors
        wakeup.wait(PAUSE_S, [], write)  # nothing that comes now may end the wait early, again and again
        for message in self._tend(wakeup):
            if message.get("t") == "exit":
                self._exit = int(message.get("code", 0))
                deadline.at_s = self._clock.monotonic()
        if self._term_deadline is not None:
            deadline.at_s = min(deadline.at_s, self._term_deadline - TERM_PATIENCE_S + SAVE_AFTER_TERM_S)

    def _look_at_coordinator(self, wakeup: Wakeup) -> None:
        """Nobody may look after us any more."""
        now = self._clock.monotonic()
        if self._term_deadline is not None and now > self._term_deadline and self._ranks and not self._told_end:
            self._kill()  # the coordinator did not say what the SIGTERM was for
        if self._link.is_up:
            self._seen = None
            return
        state = self._link.seen
        if state is not None and self._seen is None:
            self._seen = (state.beat, self._link.heard_s)  # it may have been written before we lost its writer
        elif state is not None and self._seen is not None and state.beat != self._seen[0]:
            self._seen = (state.beat, now)
        unchanged_s = now - (self._seen[1] if self._seen is not None else self._link.heard_s)
        what, why = fate(
            now - self._link.heard_s, unchanged_s, restarts=self._restarts,
            seen_restarts=None if state is None else state.restarts, seen_state="" if state is None else state.state)
        if what is Fate.WAIT:
            return
        self._events.note("agent.lost_coordinator", f"{self.node}: {why}", node=self.node, evidence={"fate": what.value})
        self._output.say(f"{self.node}: {why}: the ranks here are killed")
        self._kill_and_wait(wakeup)
        self._exit = 128 + signal.SIGTERM
        if what is Fate.ALONE:
            self._save_and_requeue(why, wakeup)

    def _kill_and_wait(self, wakeup: Wakeup) -> None:
        limit = self._clock.monotonic() + END_S
        while self._ranks is not None and not self._told_end and self._clock.monotonic() < limit:
            self._kill()
            self._look_at_ranks(wakeup)
            wakeup.wait(0.02)

    def _say_that_we_live(self) -> None:
        """In the coordinator's place: whoever looks after the job from outside must not requeue it while memory is saved."""
        last = read_state(self.run_dir)
        if last is not None and last.restarts == self._restarts:
            now = replace(last, time=self._clock.time(), beat=last.beat + 1, host=self.node, pid=0, state=ORPHANS)
            announce(self.run_dir, now, self.plan.status_dir)

    def _save_and_requeue(self, why: str, wakeup: Wakeup) -> None:
        """All agents that live come here. A spare, too, waits for what the others save: a requeue ends them."""
        plan = self._present
        self._alone_next = float("-inf")
        order = (*plan.nodes, *plan.spares) if plan is not None else (self.node,)
        if self._tiers is not None and plan is not None:
            self._tiers.flush(why, plan.nodes, lambda deadline: self._pause(deadline, wakeup))
        self._alone.requeue(why, order.index(self.node) if self.node in order else len(order))
