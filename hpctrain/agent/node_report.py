"""Says how a node's ranks ended: to people, and in the event log (service)."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from hpctrain.agent.error_file import explain
from hpctrain.agent.rank_result import NodeOutcome, RankExit
from hpctrain.ids import Incarnation, NodeName, Rank
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.writer import EventWriter

LAST_LINES = 10


class NodeReport:
    """Of one node in one incarnation.

    Args:
        say: prints a line to the job's output.
    """

    def __init__(
        self, run_dir: RunDir, incarnation: Incarnation, node: NodeName, events: EventWriter, say: Callable[[str], None]
    ) -> None:
        self._run_dir, self._incarnation, self._node = run_dir, incarnation, node
        self._events, self._say = events, say

    def tell_failures(self, failed: Sequence[RankExit]) -> None:
        """Every rank that failed by itself."""
        for rank in failed:
            self._tell_failure(rank)

    def tell_stopped(self, outcome: NodeOutcome) -> None:
        """All ranks have ended as they should."""
        self._events.note(
            "ranks.stopped", f"the ranks of {self._node} ended ({outcome.value})", node=self._node,
            evidence={"incarnation": self._incarnation, "outcome": outcome.value},
        )

    def _tell_failure(self, rank: RankExit) -> None:
        log = self._run_dir.rank_log(self._incarnation, Rank(rank.rank), self._node)
        because = f": {rank.message}" if rank.message else ""
        self._say(f"{rank.describe()}{because} (log: {log})")
        self._events.note(
            "rank.failed", f"{rank.describe()}{because}", node=self._node,
            evidence={
                "incarnation": self._incarnation, "rank": rank.rank, "exit_code": rank.exit_code,
                "signal": -rank.returncode if rank.returncode < 0 else 0, "message": rank.message,
                "traceback": rank.traceback, "last_lines": list(rank.last_lines), "log": str(log),
            },
        )


def explained(ended: RankExit, error_path: str, tail: Sequence[str], memory_kills: int = 0) -> RankExit:
    """The end of a rank with the reason that it left in its error file, or in the last lines of its output.

    Args:
        memory_kills: processes that the kernel has killed in the ranks' control group since they were started.
    """
    error_file = ""
    with contextlib.suppress(OSError):
        error_file = Path(error_path).read_text(encoding="utf-8", errors="replace")
    message, traceback = explain(error_file, tuple(tail), killed=ended.returncode == -signal.SIGKILL)
    if memory_kills and ended.returncode == -signal.SIGKILL:  # it could leave no word of its own
        message = f"ended by the kernel for want of memory (oom-kill of {memory_kills} processes in the job's control group)"
    return RankExit(
        ended.rank, ended.node, ended.returncode, ended.time, message, traceback, tuple(tail)[-LAST_LINES:]
    )
