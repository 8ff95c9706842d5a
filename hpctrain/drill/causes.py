"""Causes faults, each in the way it happens in life (service).

What concerns processes of the job happens wherever they run: on this host directly, on another one by a step of Slurm inside
the job's own allocation. Whole nodes and Slurm itself are broken only on a private cluster.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from hpctrain import process
from hpctrain.clock import Clock
from hpctrain.devcluster import daemons, health_setup, nodes, processes
from hpctrain.devcluster.faults import fault_named
from hpctrain.devcluster.kill import kill_members
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.members import CONTROLLER
from hpctrain.drill.damage import damage_newest
from hpctrain.drill.starve import feed, starve
from hpctrain.drill.targets import AGENT, COORDINATOR, KEEPER, RANK, WRITER, Target, find_targets
from hpctrain.errors import ClusterError, NotFoundError, SlurmError, UsageError
from hpctrain.ids import JobId, NodeName
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.reader import read_events
from hpctrain.slurm.commands import clean_environment
from hpctrain.slurm.port import Slurm

DRAIN_REASON = "drill: drained under a running job"
STEP_TIMEOUT_S = 30.0
STARVED_S = 8.0
STARVE_TRIES = 3
SUCCESSOR_S = 30.0
"""Longest wait for a keeper to be started again."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A running job, and where faults may strike it.

    Attributes:
        nodes: those that train, in the order of their ranks.
        ranks: (node, rank, pid) of the newest incarnation.
        batch_host: where the coordinator runs.
        cluster: the private cluster's files, None on a site's Slurm.
        slurm_conf: of the cluster that the job was submitted to, "" where Slurm's commands find their own.
    """

    job_id: int
    run_dir: RunDir
    nodes: tuple[str, ...]
    ranks: tuple[tuple[str, int, int], ...]
    batch_host: str
    cluster: tuple[Layout, Spec] | None = None
    slurm_conf: str = ""

    @property
    def env(self) -> dict[str, str]:
        """For Slurm's commands."""
        return {**clean_environment(os.environ), **({"SLURM_CONF": self.slurm_conf} if self.slurm_conf else {})}


@dataclass(frozen=True, slots=True)
class Aim:
    """Who is hit: a rank, a node; None leaves the choice to the kind."""

    node: str | None = None
    rank: int | None = None


class Causer:
    """Causes faults of one job.

    Args:
        say: told in a sentence what is done.
        dry: only say it.
    """

    def __init__(self, scene: Scene, slurm: Slurm, clock: Clock, say: Callable[[str], None], *, dry: bool = False) -> None:
        self.scene, self._slurm, self._clock, self._say, self._dry = scene, slurm, clock, say, dry
        self._moment = 0.0
        self._after: list[Callable[[], None]] = []
        self._returning: list[str] = []

    def cause(self, kind: str, aim: Aim) -> float:
        """Do it; returns when, in seconds since the epoch.

        Raises:
            NotFoundError: the process or node that is to be hit does not exist.
            SlurmError, ClusterError: it could not be done.
        """
        acts: dict[str, Callable[[Aim], None]] = {
            "kill-rank": lambda aim: self._signal(self._rank(aim), signal.SIGKILL),
            "kill-ranks": lambda aim: self._signal(self._of(RANK, self._node(aim)), signal.SIGKILL),
            "stop-rank": lambda aim: self._stop(self._rank(aim)),
            "kill-agent": lambda aim: self._signal(self._of(AGENT, self._node(aim)), signal.SIGKILL),
            "stop-agent": lambda aim: self._stop(self._of(AGENT, self._node(aim))),
            "kill-keeper": lambda aim: self._signal(self._of(KEEPER, self._node(aim)), signal.SIGKILL),
            "fill-ram-tier": lambda aim: self._starve(self._node(aim)),
            "kill-writer": lambda aim: self._signal(self._of(WRITER, self._node(aim)), signal.SIGKILL),
            "kill-coordinator": lambda _: self._signal(self._of(COORDINATOR, self.scene.batch_host), signal.SIGKILL),
            "stop-coordinator": lambda _: self._stop(self._of(COORDINATOR, self.scene.batch_host)),
            "kill-node": lambda aim: self._kill_node(self._node(aim)),
            "kill-batch-host": lambda _: self._kill_node(self.scene.batch_host),
            "xid79": lambda aim: self._break_gpu(self._node(aim)),
            "drain-node": lambda aim: self._drain(self._node(aim)),
            "corrupt-checkpoint": self._corrupt,
            "slurmctld-restart": lambda _: self._restart_controller(),
            "preemption": lambda _: self._requeue(),
            "time-limit": lambda _: self._warn(),
            "cancel": lambda _: self._cancel(),
        }
        if kind not in acts:
            raise UsageError(f"the drill '{kind}' cannot be caused")
        self._moment = 0.0
        acts[kind](aim)
        return self._moment or self._clock.time()

    def bring_back(self) -> None:
        """Nodes that were killed may return: a job that was queued again could need them."""
        while self._returning:
            node = self._returning.pop()
            self._say(f"node {node} is brought back")
            nodes.start_node(*self._private(), node, self._clock)

    def clean_up(self) -> None:
        """Undo what outlives the job's recovery: stopped processes go on, nodes return, drains of the drill end."""
        while self._after:
            self._after.pop()()
        self.bring_back()

    # -- processes -----------------------------------------------------------------------------------------------------

    def _of(self, what: str, node: str) -> list[Target]:
        here = [target for target in find_targets(self.scene.job_id, self.scene.run_dir.path, self.scene.ranks)
                if target.what == what and target.node == node]
        if here or self._is_here(node):
            if not here:
                raise NotFoundError(f"{node} has no {what} process of job {self.scene.job_id}")
            return here
        return [Target(0, 0, what, node)]  # elsewhere: found there

    def _is_here(self, node: str) -> bool:
        """The node is (on) this host: all nodes of a private cluster are."""
        return self.scene.cluster is not None or node == os.uname().nodename.partition(".")[0]

    def _rank(self, aim: Aim) -> list[Target]:
        ranks = {rank: node for node, rank, _ in self.scene.ranks}
        rank = max(ranks, default=0) if aim.rank is None else aim.rank
        if aim.node is not None and aim.rank is None:
            rank = max((rank for rank, node in ranks.items() if node == aim.node), default=-1)
        if rank not in ranks:
            raise NotFoundError(f"job {self.scene.job_id} has no such rank", hint=f"its ranks are {sorted(ranks)}")
        found = self._of(RANK, ranks[rank])
        return [target for target in found if target.rank == rank] or [Target(0, 0, RANK, ranks[rank], rank)]

    def _node(self, aim: Aim) -> str:
        """The node that is to be hit: by default one that trains and does not hold the coordinator."""
        if aim.node is not None:
            if aim.node not in self.scene.nodes:
                raise NotFoundError(f"no rank of job {self.scene.job_id} is on node {aim.node!r}",
                                    hint=f"it trains on {', '.join(self.scene.nodes)}")
            return aim.node
        others = [node for node in self.scene.nodes if node != self.scene.batch_host]
        return (others or list(self.scene.nodes))[-1]

    def _signal(self, targets: Sequence[Target], number: signal.Signals) -> None:
        for target in targets:
            self._say(f"{'would send' if self._dry else 'sending'} {number.name} to {target}")
        if self._dry:
            return
        self._moment = self._clock.time()
        for target in targets:
            if target.pid:
                if not processes.send(target.pid, number, started=target.started):
                    raise NotFoundError(f"{target} has just ended by itself")
            else:
                self._signal_elsewhere(target, number)

    def _stop(self, targets: Sequence[Target]) -> None:
        self._signal(targets, signal.SIGSTOP)
        if not self._dry:
            self._after.append(lambda: _go_on(targets))

    def _starve(self, node: str) -> None:
        """The keeper is replaced, and its successor is limited before the ranks come to it."""
        self._private()
        for _ in range(STARVE_TRIES):
            old = self._of(KEEPER, node)
            self._signal(old, signal.SIGKILL)
            if self._dry:
                self._say(f"would let its successor on {node} allocate nothing")
                return
            fresh = self._starved(node, {target.pid for target in old})
            self._say(f"{fresh[0]} may allocate nothing for {STARVED_S:.0f} s")
            self._after.append(partial(_feed, fresh))
            self._clock.sleep(STARVED_S)
            # Ranks may have been faster than we were; then the successor had all that it needs.
            if not any(event.kind == "checkpoint.recovered" and event.source == "trainer" and event.time > self._moment
                       for event in read_events(self.scene.run_dir)):
                return
            self._say(f"the memory of {node} was filled again all the same: once more")
            _feed(fresh)
        raise ClusterError(f"the memory of {node} was filled again each time: nothing was shown",
                           hint="try again when this machine is less busy")

    def _starved(self, node: str, old: set[int]) -> list[Target]:
        """The keeper that follows, as soon as it may allocate nothing."""
        deadline = self._clock.monotonic() + SUCCESSOR_S
        while self._clock.monotonic() < deadline:
            fresh = [target for target in find_targets(self.scene.job_id, self.scene.run_dir.path)
                     if target.what == KEEPER and target.node == node and target.pid not in old]
            if fresh and all(starve(target.pid) for target in fresh):
                return fresh
            self._clock.sleep(0.01)
        raise NotFoundError(f"{node} has no new keeper after {SUCCESSOR_S:.0f} s")

    def _signal_elsewhere(self, target: Target, number: signal.Signals) -> None:
        """By a step beside the job's own, on the node itself, which looks for the process as we would."""
        words = [target.what, number.name] + ([str(target.rank)] if target.rank is not None else [])
        self._step(target.node, [sys.executable, "-m", "hpctrain.drill.hit", str(self.scene.job_id),
                                 str(self.scene.run_dir.path), *words])

    def _step(self, node: str, argv: Sequence[str]) -> None:
        srun = ["srun", "--overlap", f"--jobid={self.scene.job_id}", f"--nodelist={node}", "--nodes=1", "--ntasks=1",
                "--input=none", "--mpi=none", *argv]
        result = process.run(srun, timeout_s=STEP_TIMEOUT_S, env=self.scene.env)
        if not result.ok:
            raise SlurmError(f"nothing could be done on {node}: {(result.stderr or result.stdout).strip()}")

    # -- nodes and Slurm -----------------------------------------------------------------------------------------------

    def _private(self) -> tuple[Layout, Spec]:
        if self.scene.cluster is None:
            raise UsageError("this drill breaks nodes or Slurm itself, which only a private cluster allows",
                             hint="make one with 'hpctrain cluster up' and submit the job there")
        return self.scene.cluster

    def _kill_node(self, node: str) -> None:
        layout, _ = self._private()
        self._say(f"{'would kill' if self._dry else 'killing'} all that runs on node {node}")
        if not self._dry:
            self._moment = self._clock.time()
            self._returning.append(node)
            nodes.kill_node(layout, node, self._clock, silent=False)

    def _break_gpu(self, node: str) -> None:
        layout, spec = self._private()
        self._say(f"{'would let' if self._dry else 'letting'} GPU 0 of node {node} fall off its bus")
        if self._dry:
            return
        self._moment = self._clock.time()
        for name in ("xid-79", "gpu-lost"):
            health_setup.inject(layout, spec, node, fault_named(name), 0, until="")

        def heal() -> None:
            health_setup.heal(layout, spec, node)
            self._slurm.undrain([NodeName(node)])

        self._after.append(heal)

    def _drain(self, node: str) -> None:
        self._private()
        self._say(f"{'would drain' if self._dry else 'draining'} node {node}")
        if not self._dry:
            self._moment = self._clock.time()
            self._slurm.drain([NodeName(node)], DRAIN_REASON)
            self._after.append(lambda: self._slurm.undrain([NodeName(node)]))

    def _restart_controller(self) -> None:
        layout, spec = self._private()
        self._say(f"{'would kill' if self._dry else 'killing'} slurmctld, and starting it again two seconds later")
        if self._dry:
            return
        self._moment = self._clock.time()
        kill_members(layout, lambda member: member.kind == CONTROLLER, self._clock)
        self._clock.sleep(2.0)
        daemons.start_slurmctld(layout, spec)

    def _requeue(self) -> None:
        self._private()
        self._say(f"{'would have' if self._dry else 'having'} Slurm take the nodes and queue the job again")
        if not self._dry:
            self._moment = self._clock.time()
            # What PreemptMode=REQUEUE does to a job, by the operator's own command.
            self._slurm.requeue(JobId(self.scene.job_id))

    def _warn(self) -> None:
        self._say(f"{'would send' if self._dry else 'sending'} the batch script the warning before its time limit (SIGUSR1)")
        if self._dry:
            return
        self._moment = self._clock.time()
        argv = ["scancel", "--batch", "--signal=USR1", str(self.scene.job_id)]
        result = process.run(argv, timeout_s=STEP_TIMEOUT_S, env=self.scene.env)
        if not result.ok:
            raise SlurmError(f"the batch script could not be signalled: {result.stderr.strip()}")

    def _cancel(self) -> None:
        self._say(f"{'would cancel' if self._dry else 'cancelling'} the job with scancel")
        if not self._dry:
            self._moment = self._clock.time()
            self._slurm.cancel(JobId(self.scene.job_id))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _corrupt(self, aim: Aim) -> None:
        """Damage on disk is met only by those who must read it: memory has to be lost as well."""
        keepers = [target for node in self.scene.nodes for target in self._of(KEEPER, node)]
        rank = self._rank(aim)
        self._say(f"{'would damage' if self._dry else 'damaging'} the newest checkpoint of the shared tier")
        if not self._dry:
            self._say(f"damaged {damage_newest(self.scene.run_dir.checkpoints)}")
        self._signal([*keepers, *rank], signal.SIGKILL)


def _go_on(targets: Sequence[Target]) -> None:
    """Processes that were stopped and live still; elsewhere they are left to their node's own recovery."""
    for target in targets:
        if target.pid:
            processes.send(target.pid, signal.SIGCONT, started=target.started)


def _feed(targets: Sequence[Target]) -> None:
    for target in targets:
        feed(target.pid)
