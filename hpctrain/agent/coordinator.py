"""The coordinator: starts the agents in the batch step, brings ranks back, decides when all is over (service).

It is the only one that acts on the job itself: the batch script does nothing but start it (again, should it be killed) and
forward signals. What to do about each piece of news :mod:`hpctrain.agent.ladder` says; here is how it is done.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from hpctrain.agent import ladder_model as rungs
from hpctrain.agent.agents import Agents, Heard, Silent
from hpctrain.agent.announcer import Announcer
from hpctrain.agent.channel import Hub
from hpctrain.agent.control import Control, try_write
from hpctrain.agent.coordinator_file import CoordinatorState
from hpctrain.agent.decide import Action, Decision, End, History, Limits, cannot_start, cause_of, decide
from hpctrain.agent.detectors import Detectors
from hpctrain.agent.job_end import JobEnd, LiftDelay
from hpctrain.agent.ladder import Ladder
from hpctrain.agent.ladder_model import Stage
from hpctrain.agent.lines import stamp
from hpctrain.agent.memory import load_history, save_history
from hpctrain.agent.node_states import NodeStates
from hpctrain.agent.progress import best_step, newest_checkpoint
from hpctrain.agent.rank_environment import COORDINATOR
from hpctrain.agent.rank_result import RankExit
from hpctrain.agent.recovery_log import RecoveryLog
from hpctrain.agent.rendezvous import own_address
from hpctrain.agent.step import AgentsStep
from hpctrain.agent.wakeup import Wakeup
from hpctrain.checkpoint.keeper_client import shared_secret
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.clock import Clock
from hpctrain.detect.beat import Detection
from hpctrain.errors import HpctrainError, StorageError
from hpctrain.ids import Incarnation, JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.slurm.model import JobState
from hpctrain.slurm.port import Slurm
from hpctrain.submit.plan_model import Plan
from hpctrain.watchdog import attempts as attempts_file
from hpctrain.watchdog.budget import BudgetLimits, Verdict

POLL_S = 0.25
TERM_ALONE_S = 3.0
"""An agent that was sent SIGTERM while the others and we were not is about to be gone."""
SAVE_MARGIN_S = 10.0
"""Agents end their saving by themselves at the recipe's limit; this much later they are not waited for."""
STEP_END_S, BROKEN_STEP_END_S = 10.0, 1.0
STUCK_S = 600.0
"""When the main loop has not come round for so long, our file says no longer that we live."""


class Coordinator:
    """One start of the batch script, or the rest of one whose coordinator was killed.

    Args:
        srun: the command that starts one agent per node.
        nodes: nodes of the allocation, in Slurm's order.
        lift_delay: called just before the job is requeued.
        restarts: how often Slurm has started this script before.
        before: what a coordinator of this same start has left behind, None for the first one.
    """

    def __init__(
        self, plan: Plan, *, srun: Sequence[str], nodes: Sequence[NodeName], job_id: JobId, slurm: Slurm,
        events: EventWriter, clock: Clock, env: Mapping[str, str], lift_delay: LiftDelay, restarts: int = 0,
        before: CoordinatorState | None = None, say: Callable[[str], None] | None = None,
    ) -> None:
        self.plan = plan
        self.run_dir = RunDir(Path(plan.run_dir))
        self._srun, self._nodes, self._job_id, self._slurm = tuple(srun), tuple(nodes), job_id, slurm
        self._events, self._clock, self._env, self._restarts, self._before = events, clock, env, restarts, before
        self._say = say or self._print
        self._end = JobEnd(
            self.run_dir, job_id, slurm=slurm, events=events, clock=clock, lift_delay=lift_delay, say=self._say)
        self._recovery = RecoveryLog(self.run_dir, events, clock)
        self._saved: set[str] = set()
        self._finish: rungs.Finish | None = None
        self._over: int | None = None
        self._announcer: Announcer | None = None

    def run(self) -> int:
        """Start the ranks, see them through, decide and act. Returns the exit code of the batch script."""
        with Wakeup((signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)) as wakeup:
            try:
                history = self._claim()
            except StorageError as error:
                return self._act(cannot_start(_with_advice(error), error.exit_code), End(), wakeup, ())
            try:
                finish = self._run_step(history, wakeup)
            except (HpctrainError, WireError, ValueError) as error:
                end = End(problem=str(error), exit_code=getattr(error, "exit_code", 1), best_step=best_step(self.run_dir))
                finish = rungs.Finish(end, Verdict(True, "", ""))
            decision = decide(finish.end, finish.verdict, self._limits)
            if finish.attempt is not None and decision.action is not Action.LEAVE:
                rung = "R3" if decision.action is Action.REQUEUE else "R4"
                attempt = replace(finish.attempt, rung=rung, job=int(self._job_id), restarts=self._restarts)
                if problem := try_write(attempts_file.append, self.run_dir, attempt):
                    decision = cannot_start(problem, 9)
            exclude = tuple(dict.fromkeys((*finish.verdict.exclude, *finish.end.blamed_nodes)))
            return self._act(decision, finish.end, wakeup, exclude)

    @property
    def _limits(self) -> Limits:
        command = self.plan.command
        return Limits(self.plan.slurm.requeue, command.is_trainer, command.is_trainer or self.plan.stop_signal != "none")

    def _claim(self) -> History:
        """See that this start can be recorded, before anything is started; say that it begins."""
        history = load_history(self.run_dir)
        save_history(self.run_dir, history)
        if self._before is not None:
            why = f"the coordinator (process {self._before.pid}) is gone: this one takes over"
            self._events.note("coordinator.replaced", why, evidence={"incarnation": history.incarnation})
            self._say(why)
            return history
        attempts = attempts_file.read(self.run_dir)
        self._recovery.take_over(history.incarnation + 1)
        self._events.note(
            "job.started", f"start {self._restarts + 1} on {len(self._nodes)} nodes",
            evidence={
                "incarnation": history.incarnation + 1, "nodes": list(self._nodes), "restarts": self._restarts,
                "failures": sum(attempt.counted for attempt in attempts),
            },
        )
        self._say(f"start {self._restarts + 1} of {self.plan.run_name} on {' '.join(self._nodes)}")
        return history

    # -- while agents work ---------------------------------------------------------------------------------------------

    def _run_step(self, history: History, wakeup: Wakeup) -> rungs.Finish:
        plan = self.plan
        self._machine = Ladder(
            self._nodes, plan.nodes, plan.ranks_per_node, history, self._limits, BudgetLimits.from_plan(plan),
            attempts_file.read(self.run_dir), in_place=plan.in_place)
        if self._before is not None and (ranks := Control(self.run_dir, Incarnation(history.incarnation)).ranks()):
            self._machine.adopt(ranks)
        self._detectors = Detectors(plan, self._events)
        self._states = NodeStates(self._slurm, self._nodes, self._clock)
        secret = shared_secret(Control(self.run_dir, Incarnation(0)).secret)
        several = plan.nodes + plan.spares > 1
        hub = self._hub = Hub(secret, own_address(plan.interface, several, self._env, self._nodes)[0])
        env = {**self._env, COORDINATOR: f"{hub.addr}:{hub.port}"}
        agents = self._agents = Agents(hub, self._clock, srun=self._srun, env=env, silence_s=plan.agent_silence_s)
        left = AgentsStep.take_over(self._before.srun_pid) if self._before is not None else None
        self._step = left or AgentsStep.start(self._srun, env)
        self._announcer = Announcer(self.run_dir, self._state, status_dir=plan.status_dir)
        self._announcer.start()
        self._states.start()
        try:
            while self._finish is None:
                self._take_signals(wakeup)
                self._take_news()
                self._look_at_step()
                self._tell_ladder(rungs.Tick(self._clock.time(), self._best_step()))
                self._detect()
                read, write = agents.descriptors
                wakeup.wait(POLL_S, read, write)
            self._save_and_dismiss(self._finish, wakeup)
            return self._finish
        finally:
            self._states.stop()
            self._announcer.stop()
            self._step.end()
            agents.close()

    def _best_step(self) -> int | None:
        steps = [beat.step for beat in self._agents.beats.values() if beat.step]
        return max(steps, default=None)

    def _take_signals(self, wakeup: Wakeup) -> None:
        if wakeup.take(signal.SIGUSR1):
            self._ask_to_stop("the time limit is near")
        if wakeup.take(signal.SIGTERM) or wakeup.take(signal.SIGINT):
            self._told_to_end()

    def _ask_to_stop(self, reason: str) -> None:
        self._tell_ladder(rungs.StopAsked(self._clock.time(), reason))

    def _told_to_end(self) -> None:
        """Slurm's own state of the job tells a cancellation, the time limit and preemption apart."""
        self._tell_ladder(rungs.Signalled(self._clock.time(), self._end.job_state()))

    def _take_news(self) -> None:
        for news in self._agents.poll():
            now = self._clock.time()
            if isinstance(news, Silent):
                self._tell_ladder(rungs.Lost(now, news.node, news.why, now - news.since_s))
                continue
            self._hear(news, now)
        self._look_at_terms()
        if self._recovery.is_open and self._machine.stage is Stage.RUN and self._machine.ranks is not None:
            self._look_for_first_step()

    def _hear(self, news: Heard, now: float) -> None:
        message, node = news.message, news.node
        kind, incarnation = message.get("t"), int(message.get("incarnation", -1))
        exits = tuple(RankExit.from_json(one) for one in message.get("exits", ()))
        if kind == "hello":
            self._events.note("agent.started", f"the agent of {node} has called", node=node,
                              evidence={"pid": message.get("pid"), "incarnation": incarnation})
            alive = tuple(int(rank) for rank in message.get("alive", ()))
            ranks = self._machine.ranks
            if alive and (ranks is None or incarnation != ranks.incarnation):
                old = {"t": "kill", "incarnation": incarnation, "reason": "these ranks belong to the past"}
                self._agents.send([node], old)
            self._tell_ladder(rungs.Joined(now, node, incarnation, alive, exits))
        elif kind == "ended":
            if all(one.by_agent for one in exits) and exits:
                self._look_at_terms()
            self._tell_ladder(rungs.Ended(now, node, incarnation, exits))
        elif kind == "killed":
            self._tell_ladder(rungs.Killed(now, node, incarnation, exits))
        elif kind == "failed":
            self._tell_ladder(rungs.NotStarted(
                now, node, incarnation, str(message.get("error")), int(message.get("exit_code", 1))))
        elif kind == "lines":
            self._act_on(self._detectors.lines(node, message, now), now)
        elif kind == "beat":
            self._detectors.node(node, message.get("reports", ()), now)
        elif kind == "stacks":
            self._detectors.stacks(message, node)
        elif kind == "saved":
            self._saved.add(node)

    def _look_at_terms(self) -> None:
        """Slurm signals all processes of the job; where only some agents were told to end, those are about to be gone."""
        told = self._agents.told_to_end()
        if not told or self._machine.stage is Stage.OVER or self._machine.is_told_to_end:
            return
        live = set(self._agents.nodes)
        if live <= set(told):
            self._told_to_end()
            return
        for node, since in told.items():
            if self._clock.monotonic() - since > TERM_ALONE_S:
                self._tell_ladder(rungs.Lost(self._clock.time(), node, "its agent was sent SIGTERM"))

    def _look_for_first_step(self) -> None:
        timings = self._agents.timings.get(0, {})
        beat = self._agents.beats.get(0)
        if timings and beat is not None:
            self._recovery.first_step(timings, beat.step)
        elif not self.plan.command.is_trainer and beat is not None and beat.output_bytes and not beat.phase:
            self._recovery.first_step({}, None)

    def _look_at_step(self) -> None:
        code = self._step.poll()
        if code is not None and not self._agents.nodes:
            self._tell_ladder(rungs.StepEnded(self._clock.time(), code))

    def _detect(self) -> None:
        ranks, now = self._machine.ranks, self._clock.time()
        self._states.be_urgent(self._machine.stage is Stage.MEND)
        for node, report in self._states.take():
            self._detectors.node(node, [report], now)
            if report["is_down"]:
                self._tell_ladder(rungs.Down(now, node))
        if self._machine.stage is Stage.RUN and ranks is not None:
            self._act_on(self._detectors.look(list(self._agents.beats.values()), ranks.incarnation, now), now)

    def _act_on(self, found: Sequence[Detection], now: float) -> None:
        for detection in found:
            self._tell_ladder(rungs.Detected(now, detection))

    # -- what the ladder says ------------------------------------------------------------------------------------------

    def _tell_ladder(self, event: rungs.Event) -> None:
        was, gone = self._machine.stage, self._machine.history.incarnation
        if was is Stage.RUN and not self.plan.command.is_trainer and rungs.is_trouble(event):
            # A script without heartbeats may tell of its steps in the run's files.
            self._machine.handle(rungs.Tick(event.time, best_step(self.run_dir)))
        for command in self._machine.handle(event):
            if was is Stage.KILL and isinstance(command, (rungs.Start, rungs.Mend, rungs.Finish)):
                self._recovery.killed()
                self._detectors.tell_stacks(self.run_dir, gone)
            self._do(command)

    def _do(self, command: rungs.Command) -> None:
        agents, ranks = self._agents, self._machine.ranks
        if isinstance(command, rungs.Start):
            self._start(command)
        elif isinstance(command, rungs.Fault):
            best = self._best_step() or self._machine.history.best_step
            self._recovery.fault(command, ranks.incarnation if ranks else -1, best)
            self._say(f"{command.reason}: all ranks are killed")
        elif isinstance(command, rungs.Kill) and ranks is not None:
            agents.send(ranks.nodes, {"t": "kill", "incarnation": command.incarnation, "reason": command.reason,
                                      "stacks": command.stacks})
        elif isinstance(command, rungs.Stop) and ranks is not None:
            agents.send(ranks.nodes, {"t": "stop", "reason": command.reason})
            self._events.note("job.stop_requested", command.reason, evidence={"incarnation": ranks.incarnation})
            self._say(f"{command.reason}: the ranks are asked to save and stop")
        elif isinstance(command, rungs.Mend):
            for node in command.nodes:
                if problem := agents.enlist(node):
                    self._say(f"no agent can be brought up on {node}: {problem}")
        elif isinstance(command, rungs.Forget):
            agents.forget(command.node)
        elif isinstance(command, rungs.Finish):
            self._finish = command

    def _start(self, start: rungs.Start) -> None:
        """The next incarnation: on disk before anything is started under its number."""
        ranks = start.ranks
        if start.attempt is not None:
            attempts_file.append(self.run_dir, replace(start.attempt, job=int(self._job_id), restarts=self._restarts))
        save_history(self.run_dir, self._machine.history)
        Control(self.run_dir, ranks.incarnation).publish_ranks(ranks)
        first = ranks.nodes[0]
        rendezvous = {**self._agents.offer(first), "node": first}
        self._agents.begin()
        self._detectors.begin(ranks.incarnation, self._clock.time())
        self._recovery.started(start, ranks.spares)
        self._agents.send((*ranks.nodes, *ranks.spares), {"t": "start", "ranks": ranks.to_json(), "rendezvous": rendezvous})
        if start.rung:
            self._say(f"{start.rung}: {start.reason}; incarnation {ranks.incarnation} starts on {' '.join(ranks.nodes)}")
            gone = [node for node in self._nodes if node not in self._machine.live]
            for node in gone:  # dead, or only its agent: then it is a spare from now on
                self._agents.enlist(node)

    # -- the end -------------------------------------------------------------------------------------------------------

    def _save_and_dismiss(self, finish: rungs.Finish, wakeup: Wakeup) -> None:
        """Have the agents save what only memory holds, or finish what is under way; then send them home."""
        living = sorted(self._machine.live & set(self._agents.nodes))
        cancelled = finish.end.terminated and finish.end.job_state is JobState.CANCELLED
        if self._machine.ranks is not None and self.plan.checkpoint.ram and living and not cancelled:
            done = finish.end.done or finish.end.stopped
            reason = finish.end.problem or "the ranks have died"
            if finish.end.failure is not None:
                reason = finish.end.failure.describe()
            self._agents.send(living, {"t": "drain"} if done else {"t": "flush", "reason": reason, "living": living})
            self._await_saved(set(living), wakeup)
        self._agents.send(self._agents.nodes, {"t": "exit", "code": 0})
        # The srun of a dead node's agent does not end by itself; what it held is given back with the job.
        whole = self._machine.live >= set(self._nodes)
        deadline = self._clock.monotonic() + (STEP_END_S if whole else BROKEN_STEP_END_S)
        while self._step.poll() is None and self._clock.monotonic() < deadline:
            self._agents.poll()
            wakeup.wait(0.05, *self._agents.descriptors)

    def _await_saved(self, waiting: set[str], wakeup: Wakeup) -> None:
        deadline = self._clock.monotonic() + self.plan.checkpoint.flush_limit_s + SAVE_MARGIN_S
        while waiting - self._saved and self._clock.monotonic() < deadline:
            for news in self._agents.poll():
                if isinstance(news, Silent):
                    waiting.discard(news.node)
                    self._agents.forget(news.node)
                elif news.message.get("t") == "saved":
                    self._saved.add(news.node)
            wakeup.wait(POLL_S, *self._agents.descriptors)

    def _act(self, decision: Decision, end: End, wakeup: Wakeup, exclude: tuple[str, ...]) -> int:
        attempts = []
        with contextlib.suppress(OSError):
            attempts = attempts_file.read(self.run_dir)
        history = load_history(self.run_dir)
        evidence: dict[str, object] = {
            "incarnation": history.incarnation, "exit_code": decision.exit_code, "best_step": end.best_step,
            "failures": sum(attempt.counted for attempt in attempts), "cause": cause_of(end).value,
        }
        if decision.action is Action.FAIL:
            evidence |= {"rule": decision.rule, "fingerprint": attempts[-1].fingerprint if attempts else "",
                         "checkpoint": newest_checkpoint(self.run_dir), "attempts": len(attempts)}
        code = self._end.act(decision, end, evidence, self._recovery, wakeup=wakeup, exclude=exclude)
        self._over = code
        if self._announcer is not None:
            self._announcer.write()
        return code

    # -- our own file --------------------------------------------------------------------------------------------------

    def _state(self, beat: int) -> CoordinatorState | None:
        if self._over is None and self._clock.monotonic() - self._agents.alive_s > STUCK_S:
            return None
        return CoordinatorState(
            time=self._clock.time(), beat=beat, host=self._env.get("SLURMD_NODENAME") or os.uname().nodename,
            pid=os.getpid(), srun_pid=self._step.pid, job=self._job_id, restarts=self._restarts,
            incarnation=self._machine.history.incarnation,
            state="over" if self._over is not None else self._machine.stage.value, exit_code=self._over,
            addr=self._hub.addr, port=self._hub.port)

    def _print(self, text: str) -> None:
        data = f"{stamp(self._clock.time())} hpctrain: {text}\n".encode()
        with contextlib.suppress(OSError):  # a full disk under job.out must not end the job
            os.write(1, data)


def _with_advice(error: HpctrainError) -> str:
    return f"{error} ({error.advice})" if error.advice else str(error)

