"""Messages between coordinator and agents, as small files of the run directory (adapter over the file system).

All are written whole and never changed; each belongs to one incarnation, so that an agent of an older one that is
still alive reads nothing of the new one's and disturbs nothing::

    control/incarnation.json          last incarnation that was started, and the failures so far
    control/ranks-i000.json           coordinator -> agents: which node runs which ranks
    control/rendezvous-i000.json      rank 0's agent -> agents: where the store is
    control/stop-i000.json            anyone -> agents: save and stop at the next step boundary
    control/abort-i000.json           coordinator -> agents: kill the ranks now
    control/notice-i000-NODE.json     agent -> coordinator: I was told to end (SIGTERM)
    control/result-i000-NODE.json     agent -> coordinator: how my ranks ended
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpctrain.agent.rank_environment import Rendezvous
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_result import NodeResult
from hpctrain.errors import StorageError
from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.ids import Incarnation, NodeName
from hpctrain.jobs.layout import RunDir

EXIT_UNREPORTED = 74
"""Of an agent: the ranks ended without error, but that could not be written down for the coordinator."""


class Control:
    """The control files of one incarnation."""

    def __init__(self, run_dir: RunDir, incarnation: Incarnation) -> None:
        self.run_dir = run_dir
        self.incarnation = incarnation

    def publish_ranks(self, ranks: RankPlan) -> None:
        """Say which node runs which ranks. Raises StorageError."""
        make_private_dir(self.run_dir.control)
        write_json_atomic(self._path("ranks"), ranks.to_json())

    def ranks(self) -> RankPlan | None:
        """The published rank plan, None while there is none."""
        data = _read(self._path("ranks"))
        return RankPlan.from_json(data) if data else None

    def publish_rendezvous(self, rendezvous: Rendezvous) -> None:
        """Say where rank 0's store will be. Raises StorageError."""
        write_json_atomic(self.run_dir.rendezvous(self.incarnation), asdict(rendezvous))

    def rendezvous(self) -> Rendezvous | None:
        """The published rendezvous, None while there is none."""
        data = _read(self.run_dir.rendezvous(self.incarnation))
        if not data:
            return None
        return Rendezvous(
            str(data["addr"]), int(data["port"]), NodeName(str(data["node"])), str(data.get("interface", ""))
        )

    def request_stop(self, reason: str, time_s: float) -> None:
        """Ask the ranks to save and stop; the first reason stays. Raises StorageError."""
        if self.stop_reason() is None:
            write_json_atomic(self.run_dir.stop_request(self.incarnation), {"reason": reason, "time": time_s})

    def stop_reason(self) -> str | None:
        """Why the ranks are asked to stop, None if they are not."""
        return self._reason(self.run_dir.stop_request(self.incarnation))

    def abort(self, reason: str, time_s: float) -> None:
        """Have all ranks killed. Raises StorageError."""
        write_json_atomic(self._path("abort"), {"reason": reason, "time": time_s})

    def abort_reason(self) -> str | None:
        """Why the ranks are to be killed, None if they are not."""
        return self._reason(self._path("abort"))

    def notify_term(self, node: NodeName, time_s: float) -> None:
        """Tell the coordinator that this agent was sent SIGTERM. Raises StorageError."""
        write_json_atomic(self._path("notice", node), {"signal": "SIGTERM", "time": time_s}, durable=False)

    def term_noticed(self) -> set[NodeName]:
        """Nodes whose agents were sent SIGTERM."""
        start = f"notice-i{self.incarnation:03d}-"
        return {NodeName(path.name.removeprefix(start).removesuffix(".json")) for path in self._all("notice")}

    def report(self, result: NodeResult) -> None:
        """Leave this node's result for the coordinator. Raises StorageError."""
        write_json_atomic(self._path("result", result.node), result.to_json())

    def results(self) -> list[NodeResult]:
        """What agents have reported so far."""
        found = (_read(path) for path in sorted(self._all("result")))
        return [NodeResult.from_json(data) for data in found if data]

    def _path(self, word: str, node: str = "") -> Path:
        return self.run_dir.control / f"{word}-i{self.incarnation:03d}{'-' if node else ''}{node}.json"

    def _all(self, word: str) -> list[Path]:
        start = f"{word}-i{self.incarnation:03d}-"
        return [self.run_dir.control / name for name in _names(self.run_dir.control) if name.startswith(start)]

    @staticmethod
    def _reason(path: Path) -> str | None:
        if path.name not in _names(path.parent):
            return None
        return str((_read(path) or {}).get("reason") or "unknown")


def _names(directory: Path) -> set[str]:
    """Names in a directory.

    Polling lists the directory instead of asking for one name: NFS clients answer "no such file" from their cache for
    up to a minute, but look again when a directory is opened.
    """
    try:
        # Names that start with a dot are files that write_atomic has not renamed yet.
        return {name for name in os.listdir(directory) if not name.startswith(".")}
    except OSError:
        return set()


def _read(path: Path) -> Mapping[str, Any] | None:
    """A JSON object; None if the file is missing, unreadable for the moment, or not one."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(path.read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else None
    return None


def try_write(action: Any, *args: Any) -> str:
    """Call a writer of control files where a full disk must not end the work; return the error as text, "" if none."""
    try:
        action(*args)
    except StorageError as error:
        return str(error)
    return ""
