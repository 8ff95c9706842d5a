"""The node agent: starts this node's ranks, watches them, reports how they ended (service).

One agent runs per node, as the only task of the job's ``srun`` there. When one of its ranks fails it kills all others
of the node at once and exits with an error; ``srun --kill-on-bad-exit`` then ends the agents of the other nodes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpctrain.agent.control import EXIT_UNREPORTED, Control, try_write
from hpctrain.agent.flusher import Deadline
from hpctrain.agent.local_dir import claim, remove_abandoned
from hpctrain.agent.node_report import NodeReport, explained
from hpctrain.agent.node_tiers import PAUSE_S, open_tiers
from hpctrain.agent.output import OutputWriter, RankOutput
from hpctrain.agent.rank_environment import LocalFiles, Rendezvous, rank_argv, rank_environment
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_process import RankProcess, Warden
from hpctrain.agent.rank_result import NodeOutcome, NodeResult, RankExit, outcome_of, rank_failed
from hpctrain.agent.relay import Relay
from hpctrain.agent.rendezvous import HeldPort, own_address
from hpctrain.agent.wakeup import Wakeup
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError
from hpctrain.ids import NodeName, Rank
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter
from hpctrain.submit.plan_model import Plan

TERM_PATIENCE_S = 8.0
"""After SIGTERM the coordinator has this long to say whether to save or to end; then the ranks are killed."""
PUBLISH_PATIENCE_S = 120.0
"""Longest wait for a control file that another process writes before or right after we start."""
DRAIN_S = 3.0
"""Longest wait for the output of dead ranks, which a surviving grandchild may hold open."""
FIRST_PATIENCE_S = 10.0
"""Longest wait for the coordinator to see the failure of another node."""
SAVE_AFTER_TERM_S = 20.0
"""Slurm's KillWait is 30 s by default: then everything is killed."""
UNKILLABLE_S = 10.0
"""A killed process that hangs in a system call (dead file system, stuck GPU driver) is not waited for longer."""


@dataclass(slots=True)
class _Running:
    """One rank of this node."""

    rank: Rank
    process: RankProcess
    output: RankOutput
    files: LocalFiles
    ended: RankExit | None = None


class NodeAgent:
    """The ranks of one node in one incarnation.

    Args:
        node: this node, as Slurm names it.
        env: the agent's own environment, which the ranks inherit.
    """

    def __init__(
        self, plan: Plan, control: Control, *, node: NodeName, events: EventWriter, clock: Clock, env: Mapping[str, str]
    ) -> None:
        self.plan = plan
        self.control = control
        self.node = node
        self.run_dir = RunDir(Path(plan.run_dir))
        self._events = events
        self._clock = clock
        self._env = env
        self._output = OutputWriter(clock)
        self._report = NodeReport(self.run_dir, control.incarnation, node, events, self._output.say)
        self._ranks: list[_Running] = []
        self._term_deadline: float | None = None
        self._stop_sent = False
        self._aborted = ""

    def run(self) -> int:
        """Start the ranks, wait for their end, report it. Returns the agent's exit code."""
        with Wakeup((signal.SIGTERM, signal.SIGINT)) as wakeup:
            try:
                ranks = self._wait_for_ranks(wakeup)
                if not ranks.ranks_of(self.node):
                    return self._finish(self._wait_as_spare(ranks, wakeup))
                return self._finish(self._run_ranks(ranks, wakeup))
            except HpctrainError as error:
                self._output.say(f"error on {self.node}: {error}")
                self._events.note("rank.failed", str(error), node=self.node)
                return error.exit_code
            finally:
                self._output.close(DRAIN_S)

    # -- waiting for the others ------------------------------------------------------------------------------------

    def _wait_for_ranks(self, wakeup: Wakeup) -> RankPlan:
        deadline = self._clock.monotonic() + PUBLISH_PATIENCE_S
        while self._clock.monotonic() < deadline:
            if ranks := self.control.ranks():
                return ranks
            wakeup.wait(0.2)
        raise HpctrainError(
            f"the coordinator's rank plan did not appear in {self.run_dir.control} within {PUBLISH_PATIENCE_S:.0f} s",
            hint="is the run directory on a file system that all nodes share?",
        )

    def _wait_as_spare(self, ranks: RankPlan, wakeup: Wakeup) -> NodeResult:
        """A spare has nothing to do until the training nodes are through."""
        wanted = set(ranks.nodes)
        while not wanted <= {result.node for result in self.control.results()}:
            if wakeup.take(signal.SIGTERM) or self.control.abort_reason() is not None:
                break
            wakeup.wait(1.0)
        return NodeResult(self.node, NodeOutcome.IDLE)

    def _rendezvous(self, ranks: RankPlan, wakeup: Wakeup, relay: Relay) -> tuple[Rendezvous, HeldPort | None]:
        """Rank 0's agent takes a port and publishes it; the others wait for that."""
        if self.node == ranks.nodes[0]:
            addr, interface = own_address(self.plan.interface, len(ranks.nodes) > 1, self._env)
            held = HeldPort()
            rendezvous = Rendezvous(addr, held.port, self.node, interface)
            self.control.publish_rendezvous(rendezvous)
            return rendezvous, held
        deadline = self._clock.monotonic() + PUBLISH_PATIENCE_S
        while self._clock.monotonic() < deadline and relay.abort_reason is None and not wakeup.take(signal.SIGTERM):
            if found := self.control.rendezvous():
                # Where the store listens is one for all; which interface leads there is each node's own matter.
                own = own_address(self.plan.interface, True, self._env)[1]
                return Rendezvous(found.addr, found.port, found.node, own), None
            wakeup.wait(0.1)
        raise HpctrainError(f"the agent of {ranks.nodes[0]} published no address for rank 0")

    # -- the ranks -------------------------------------------------------------------------------------------------

    def _run_ranks(self, ranks: RankPlan, wakeup: Wakeup) -> NodeResult:
        remove_abandoned(self._clock.time())
        local_dir, lock = claim(self._env.get("SLURM_JOB_ID", "0"), self.node)
        first = self.node == ranks.nodes[0]
        heartbeat = local_dir / "heartbeat-0.json" if first else None
        relay = Relay(self.control, self.node, self._clock, heartbeat, self.run_dir.progress)
        relay.start()
        held: HeldPort | None = None
        warden = Warden(local_dir)
        tiers = open_tiers(
            self.plan, self.control, ranks, node=self.node, events=self._events, clock=self._clock, env=self._env
        )
        try:
            if tiers is not None:
                tiers.start(warden.watch, warden.forget)
            rendezvous, held = self._rendezvous(ranks, wakeup, relay)
            self._start(ranks, rendezvous, local_dir, warden)
            self._watch(wakeup, relay, local_dir)
            self._end_all()
            result = self._result()
            self._report.tell(result)
            if tiers is not None:
                tiers.finish(result, self._aborted, lambda deadline: self._pause(deadline, wakeup, relay))
            self._let_failed_go_first(result, wakeup, relay)
            return result
        finally:
            for running in self._ranks:
                running.process.kill()
                warden.forget(running.process.pid)
            if tiers is not None:
                tiers.stop()
            relay.finish(DRAIN_S)
            warden.close()
            os.close(lock)
            if held is not None:
                held.close()

    def _result(self) -> NodeResult:
        exits = tuple(running.ended for running in self._ranks if running.ended is not None)
        outcome = outcome_of(
            exits, is_trainer=self.plan.command.is_trainer, stop_requested=self._stop_requested,
            aborted=bool(self._aborted),
        )
        return NodeResult(self.node, outcome, exits)

    def _let_failed_go_first(self, result: NodeResult, wakeup: Wakeup, relay: Relay) -> None:
        """When ranks of another node have failed, that node's result must be the first that the coordinator hears of.

        srun ends all other agents as soon as one exits with an error, with the SIGTERM that otherwise means the job.
        """
        limit = self._clock.monotonic() + FIRST_PATIENCE_S
        while (result.outcome is NodeOutcome.ABORTED and relay.abort_reason is None and self._term_deadline is None
               and self._clock.monotonic() < limit):
            wakeup.wait(0.1)
            self._take_term(wakeup, relay)

    def _pause(self, deadline: Deadline, wakeup: Wakeup, relay: Relay) -> None:
        """Wait a moment for the checkpoint tiers; less time is left once Slurm ends the step."""
        wakeup.wait(PAUSE_S)
        self._take_term(wakeup, relay)
        if self._term_deadline is not None:
            deadline.at_s = min(deadline.at_s, self._term_deadline - TERM_PATIENCE_S + SAVE_AFTER_TERM_S)

    def _start(self, ranks: RankPlan, rendezvous: Rendezvous, local_dir: Path, warden: Warden) -> None:
        argv = rank_argv(self.plan, package_dir=str(Path(__file__).parent.parent), local_dir=str(local_dir))
        for rank in ranks.ranks_of(self.node):
            files = LocalFiles(
                str(local_dir / f"heartbeat-{rank}.json"), str(local_dir / "stop"), str(local_dir / f"error-{rank}.json")
            )
            env = rank_environment(
                self.plan, ranks, node=self.node, rank=rank, rendezvous=rendezvous, files=files, base=self._env
            )
            process = RankProcess(argv, env, self.plan.command.workdir)
            warden.watch(process.pid)
            target = self._output.open(self.run_dir.rank_log(ranks.incarnation, rank, self.node), echo=rank == 0)
            self._ranks.append(_Running(rank, process, RankOutput(process.stdout, self._output, target, self._clock), files))
        self._events.note(
            "ranks.started", f"{len(self._ranks)} ranks were started on {self.node}", node=self.node,
            evidence={
                "incarnation": ranks.incarnation, "ranks": [running.rank for running in self._ranks],
                "pids": [running.process.pid for running in self._ranks],
                "master": f"{rendezvous.addr}:{rendezvous.port}",
            },
        )

    def _watch(self, wakeup: Wakeup, relay: Relay, local_dir: Path) -> None:
        """Return when all ranks have ended, one has failed, or they are to be killed."""
        while True:
            self._reap(wakeup, relay)
            if all(running.ended for running in self._ranks) or any(self._failed(running) for running in self._ranks):
                return
            if relay.stop_reason is not None and not self._stop_sent:
                self._ask_to_stop(relay.stop_reason, local_dir)
            self._take_term(wakeup, relay)
            if relay.abort_reason is not None:
                self._aborted = relay.abort_reason
            elif relay.flush_reason is not None:
                self._aborted = relay.flush_reason
            elif self._term_deadline and relay.stop_reason is None and self._clock.monotonic() > self._term_deadline:
                self._aborted = "this agent was sent SIGTERM, and the coordinator did not say what for"
            if self._aborted:
                return
            wakeup.wait(0.25)

    def _ask_to_stop(self, reason: str, local_dir: Path) -> None:
        """Pass the stop request on: a file for our trainer, a signal for a script of the user's."""
        if self.plan.command.is_trainer:
            try:
                (local_dir / "stop").write_text(reason + "\n")
            except OSError as error:
                self._output.say(f"error on {self.node}: the stop request cannot be passed on: {error}")
        elif self.plan.stop_signal != "none":
            for running in self._ranks:
                running.process.ask_to_stop(signal.Signals[self.plan.stop_signal])
        # With stop_signal "none" a script is not asked: what it does is its own, and 0 then means done.
        self._stop_sent = self.plan.command.is_trainer or self.plan.stop_signal != "none"

    @property
    def _stop_requested(self) -> bool:
        """The ranks know that they are to stop: through us, or because Slurm's SIGTERM reaches them as well as us."""
        return self._stop_sent or self._term_deadline is not None

    def _take_term(self, wakeup: Wakeup, relay: Relay) -> None:
        if wakeup.take(signal.SIGTERM) or wakeup.take(signal.SIGINT):
            relay.report_term()
            self._term_deadline = self._clock.monotonic() + TERM_PATIENCE_S

    def _reap(self, wakeup: Wakeup, relay: Relay) -> None:
        for running in self._ranks:
            if running.ended is not None or (code := running.process.poll()) is None:
                continue
            if code == -signal.SIGTERM and self._term_deadline is None:
                # Slurm signals every process of a step: our own SIGTERM may arrive a moment after the rank died of its.
                self._clock.sleep(0.1)
                self._take_term(wakeup, relay)
            by_slurm = code == -signal.SIGTERM and self._term_deadline is not None
            running.ended = RankExit(running.rank, self.node, code, self._clock.time(), by_agent=by_slurm)
            if by_slurm and not self._stop_sent:
                self._aborted = self._aborted or "Slurm ended the ranks with SIGTERM"

    def _failed(self, running: _Running) -> bool:
        return running.ended is not None and not running.ended.by_agent and rank_failed(
            running.ended.returncode, is_trainer=self.plan.command.is_trainer, stop_requested=self._stop_requested
        )

    def _end_all(self) -> None:
        """Kill what still runs, read the rest of all output, and complete the reports of the failed."""
        alive = [running for running in self._ranks if running.ended is None]
        for running in self._ranks:
            running.process.kill()
        limit = self._clock.monotonic() + UNKILLABLE_S
        while any(running.process.poll() is None for running in alive) and self._clock.monotonic() < limit:
            self._clock.sleep(0.005)
        for running in alive:
            code = running.process.poll()
            returncode = -signal.SIGKILL if code is None else code
            running.ended = RankExit(running.rank, self.node, returncode, self._clock.time(), by_agent=True)
        deadline = self._clock.monotonic() + DRAIN_S
        for running in self._ranks:
            running.output.finish(max(0.0, deadline - self._clock.monotonic()))
            if self._failed(running) and running.ended and not running.ended.by_agent:
                running.ended = explained(running.ended, running.files.error, tuple(running.output.tail))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _finish(self, result: NodeResult) -> int:
        """Tell the coordinator; choose the exit code."""
        if problem := try_write(self.control.report, result):
            self._output.say(f"error on {self.node}: the result cannot be written: {problem}")
        if result.outcome is NodeOutcome.FAILED:
            return next((rank.exit_code for rank in result.ranks if not rank.by_agent and rank.returncode), 1)
        if result.outcome is NodeOutcome.ABORTED:
            return 128 + signal.SIGTERM
        return EXIT_UNREPORTED if problem else 0
