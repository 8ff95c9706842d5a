"""The ranks of one node in one incarnation: started, watched, asked to stop, killed (service)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.agent import memory_kills
from hpctrain.agent.launcher import Launcher
from hpctrain.agent.node_report import explained
from hpctrain.agent.output import OutputWriter, RankOutput
from hpctrain.agent.rank_environment import LocalFiles, Rendezvous, rank_argv, rank_environment
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_process import RunningRank
from hpctrain.agent.rank_result import RankExit, rank_failed
from hpctrain.clock import Clock
from hpctrain.errors import HpctrainError
from hpctrain.ids import NodeName, Rank
from hpctrain.jobs.layout import RunDir
from hpctrain.submit.plan_model import Plan

DRAIN_S = 2.0
"""Longest wait for the output of dead ranks, which a surviving grandchild may hold open."""
_MOST_PROCESSES = 64
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class _Running:
    """One rank of this node."""

    rank: Rank
    process: RunningRank
    output: RankOutput
    files: LocalFiles
    ended: RankExit | None = None


class NodeRanks:
    """Made for one incarnation; nothing runs before :meth:`start`.

    Attributes:
        is_started: it was called.

    Args:
        local_dir: the agent's node-local directory.
        env: the agent's own environment, which the ranks inherit.
        on_line: called by a thread with rank and text of every line that a rank prints; None where nobody asks.
        kills: how many processes the kernel has killed here for their memory; None where nobody counts.
    """

    def __init__(
        self, plan: Plan, ranks: RankPlan, *, node: NodeName, local_dir: Path, launcher: Launcher, output: OutputWriter,
        env: Mapping[str, str], clock: Clock, on_line: Callable[[int, bytes], None] | None = None,
        kills: Callable[[], int | None] = memory_kills.count,
    ) -> None:
        self.ranks = ranks
        self._kills, self._killed_before = kills, kills() or 0
        self._plan, self._node, self._launcher, self._output = plan, node, launcher, output
        self._env, self._clock, self._on_line = env, clock, on_line
        self._run_dir = RunDir(Path(plan.run_dir))
        self._dir = local_dir / f"i{ranks.incarnation:03d}"
        self._running: list[_Running] = []
        self._stop_sent = False
        self._killed = False
        self.is_started = False

    @property
    def incarnation(self) -> int:
        """Of these ranks."""
        return self.ranks.incarnation

    @property
    def pids(self) -> dict[int, int]:
        """Process ids of the ranks that run."""
        return {one.rank: one.process.pid for one in self._running if one.ended is None}

    @property
    def groups(self) -> list[int]:
        """Process groups of all ranks that were started."""
        return [one.process.pid for one in self._running]

    @property
    def descriptors(self) -> list[int]:
        """Become readable when a rank has ended."""
        found = (one.process.fileno() for one in self._running if one.ended is None)
        return [number for number in found if number is not None]

    @property
    def exits(self) -> tuple[RankExit, ...]:
        """How those ended that have."""
        return tuple(one.ended for one in self._running if one.ended is not None)

    @property
    def are_gone(self) -> bool:
        """None runs."""
        return all(one.ended is not None for one in self._running)

    def start(self, rendezvous: Rendezvous) -> None:
        """Start all of them.

        Raises:
            HpctrainError: one cannot be started; those that were are killed.
        """
        self.is_started = True
        self._dir.mkdir(mode=0o700, exist_ok=True)
        argv = rank_argv(self._plan, package_dir=str(Path(__file__).parent.parent), local_dir=str(self._dir.parent))
        try:
            for rank in self.ranks.ranks_of(self._node):
                self._start_one(rank, argv, rendezvous)
        except (HpctrainError, OSError) as error:
            self.kill()
            raise HpctrainError(f"the ranks of {self._node} cannot be started: {error}") from error

    def _start_one(self, rank: Rank, argv: tuple[str, ...], rendezvous: Rendezvous) -> None:
        files = LocalFiles(
            str(self._dir / f"heartbeat-{rank}.json"), str(self._dir / "stop"), str(self._dir / f"error-{rank}.json"))
        env = rank_environment(
            self._plan, self.ranks, node=self._node, rank=rank, rendezvous=rendezvous, files=files, base=self._env)
        process = self._launcher.launch(argv, env, self._plan.command.workdir)
        log = self._run_dir.rank_log(self.ranks.incarnation, rank, self._node)
        target = self._output.open(log, echo=rank == 0)
        listen = None if self._on_line is None else self._listener(rank)
        self._running.append(_Running(
            rank, process, RankOutput(process.stdout, self._output, target, self._clock, listen), files))

    def _listener(self, rank: int) -> Callable[[bytes], None]:
        assert self._on_line is not None  # noqa: S101 - for the type checker: the caller has looked
        on_line = self._on_line
        return lambda line: on_line(rank, line)

    def reap(self, *, told_by_slurm: bool) -> list[RankExit]:
        """Those that have ended since the last call.

        Args:
            told_by_slurm: Slurm has sent SIGTERM to every process of the step.
        """
        found = []
        for one in self._running:
            if one.ended is not None or (code := one.process.poll()) is None:
                continue
            by_slurm = code == -signal.SIGTERM and told_by_slurm
            one.ended = RankExit(one.rank, self._node, code, self._clock.time(), by_agent=by_slurm or self._killed)
            found.append(one.ended)
        return found

    def failed(self, one: RankExit, *, stop_requested: bool) -> bool:
        """Whether this end is an error."""
        return not one.by_agent and rank_failed(
            one.returncode, is_trainer=self._plan.command.is_trainer, stop_requested=stop_requested or self._stop_sent)

    def ask_to_stop(self, reason: str) -> str:
        """Pass a stop request on: a file for our trainer, a signal for a script of the user's; what went wrong."""
        if self._stop_sent:
            return ""
        self._stop_sent = True
        if self._plan.command.is_trainer:
            try:
                (self._dir / "stop").write_text(reason + "\n")
            except OSError as error:
                self._stop_sent = False
                return f"the stop request cannot be passed on: {error}"
        elif self._plan.stop_signal != "none":
            for one in self._running:
                one.process.ask_to_stop(signal.Signals[self._plan.stop_signal])
        else:
            self._stop_sent = False  # what the script does is its own, and 0 then means done
        return ""

    def kill(self) -> None:
        """Kill every rank and everything of its group; :meth:`reap` tells when they are gone."""
        self._killed = True
        for one in self._running:
            one.process.kill()

    def explain(self) -> tuple[RankExit, ...]:
        """All ends, with the reasons that the failed left behind; waits a little for the rest of their output."""
        deadline = self._clock.monotonic() + DRAIN_S
        for_memory = (self._kills() or 0) - self._killed_before
        for one in self._running:
            one.output.finish(max(0.0, deadline - self._clock.monotonic()))
            if one.ended is not None and not one.ended.by_agent and one.ended.returncode and not one.ended.message:
                one.ended = explained(one.ended, one.files.error, tuple(one.output.tail), for_memory)
        return self.exits

    def beats(self) -> list[dict[str, Any]]:
        """What is known of each rank: its own heartbeat, its output, its CPU time."""
        return [
            {"rank": one.rank, "pid": one.process.pid, "heartbeat": _heartbeat(one.files.heartbeat),
             "output_bytes": one.output.received_bytes, "cpu_s": _cpu_s(one.process.pid)}
            for one in self._running if one.ended is None
        ]

    def heartbeat_of_rank_0(self) -> Path | None:
        """Node-local file that the job's progress is copied from; None where rank 0 is elsewhere."""
        return next((Path(one.files.heartbeat) for one in self._running if one.rank == 0), None)


def _heartbeat(path: str) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(Path(path).read_bytes())
        return data if isinstance(data, dict) else {}
    return {}


def _cpu_s(pid: int) -> float:
    """CPU time of a process and its descendants: a rank may be a shell script that runs the program."""
    total, ask, asked = 0, [pid], 0
    while ask and asked < _MOST_PROCESSES:
        one, asked = ask.pop(), asked + 1
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))  # its own, and that of children which it has reaped
            ask += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return total / _TICKS
