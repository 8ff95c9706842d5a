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
    control/peer-i000-NODE.json       agent -> agents: where my writer takes copies of your ranks' checkpoints
    control/flush-i000.json           agent -> agents: ranks have died; kill yours, and save what memory holds
    control/holdings-i000-NODE.json   agent -> agents: what the memory of my node holds
    control/decision-i000.json        agent -> agents: who writes what; the first one that is published counts
    control/flushed-i000-NODE.json    agent -> agents: how my part of that ended

``control/keeper.secret`` is the job's: what keepers, writers and ranks prove to each other that they know.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctrain.agent.flush import Flush, Holdings
from hpctrain.agent.rank_environment import KEEPER_SECRET, Rendezvous
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.agent.rank_result import NodeResult
from hpctrain.errors import StorageError
from hpctrain.files import create_atomic, make_private_dir, write_json_atomic
from hpctrain.ids import Incarnation, NodeName
from hpctrain.jobs.layout import RunDir

EXIT_UNREPORTED = 74
"""Of an agent: the ranks ended without error, but that could not be written down for the coordinator."""


@dataclass(frozen=True, slots=True)
class PeerEndpoint:
    """Where a node's writer takes copies.

    Attributes:
        domain: what the node may lose together with its neighbours (a switch, a rack), "" if that is not known.
    """

    node: str
    addr: str
    port: int
    domain: str = ""


class Control:
    """The control files of one incarnation."""

    def __init__(self, run_dir: RunDir, incarnation: Incarnation) -> None:
        self.run_dir = run_dir
        self.incarnation = incarnation

    @property
    def secret(self) -> Path:
        """The job's secret for checkpoints in memory."""
        return self.run_dir.control / KEEPER_SECRET

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

    def publish_peer(self, endpoint: PeerEndpoint) -> None:
        """Say where this node's writer listens. Raises StorageError."""
        write_json_atomic(self._path("peer", endpoint.node), asdict(endpoint), durable=False)

    def peers(self) -> dict[str, PeerEndpoint]:
        """What agents have published, by node."""
        found = (_read(path) for path in sorted(self._all("peer")))
        return {str(data["node"]): PeerEndpoint(**data) for data in found if data}

    def request_flush(self, reason: str, time_s: float, limit_s: float) -> None:
        """Have all ranks killed and memory saved; the first request stays. Raises StorageError."""
        self._create(self._path("flush"), {"reason": reason, "time": time_s, "limit_s": limit_s})

    def flush_reason(self) -> str | None:
        """Why memory is to be saved, None if it is not."""
        return self._reason(self._path("flush"))

    def publish_holdings(self, holdings: Holdings) -> None:
        """Say what this node's memory holds. Raises StorageError."""
        write_json_atomic(self._path("holdings", holdings.node), holdings.to_json(), durable=False)

    def holdings(self) -> list[Holdings]:
        """What agents have said so far."""
        found = (_read(path) for path in sorted(self._all("holdings")))
        return [Holdings.from_json(data) for data in found if data]

    def decide_flush(self, flush: Flush) -> Flush:
        """Publish a decision unless there is one; returns the one that counts. Raises StorageError."""
        self._create(self._path("decision"), flush.to_json())
        return self.flush_decision() or flush

    def flush_decision(self) -> Flush | None:
        """The decision that counts, None while there is none."""
        path = self._path("decision")
        data = _read(path) if path.name in _names(path.parent) else None
        return Flush.from_json(data) if data else None

    def report_flushed(self, node: NodeName, error: str) -> None:
        """Say that this node's part of the decision is done; ``error`` is "" when it went well. Raises StorageError."""
        write_json_atomic(self._path("flushed", node), {"node": node, "error": error}, durable=False)

    def flushed(self) -> dict[str, str]:
        """Nodes that are done, with what went wrong there."""
        found = (_read(path) for path in sorted(self._all("flushed")))
        return {str(data["node"]): str(data["error"]) for data in found if data}

    def _create(self, path: Path, value: Mapping[str, Any]) -> None:
        with contextlib.suppress(FileExistsError):
            create_atomic(path, json.dumps(value))

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
