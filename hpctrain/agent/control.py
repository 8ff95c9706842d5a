"""What agents tell each other through small files of the run directory (adapter over the file system).

Coordinator and agents speak over TCP (:mod:`hpctrain.agent.channel`). Here is what must also work between agents that have
lost their coordinator, or must be found by a later one. All files are written whole and never changed; each belongs to one
incarnation, so that an agent of an older one that is still alive reads nothing of the new one's and disturbs nothing::

    control/incarnation.json          last incarnation that was started
    control/attempts.jsonl            every failure so far (hpctrain.watchdog.attempts)
    control/coordinator.json          that there is a coordinator, and where (hpctrain.agent.coordinator_file)
    control/ranks-i000.json           coordinator: which node runs which ranks
    control/peer-i000-NODE.json       agent: where my writer takes copies of your ranks' checkpoints
    control/holdings-i000-NODE.json   agent: what the memory of my node holds
    control/decision-i000.json        agent: who writes what; the first one that is published counts
    control/flushed-i000-NODE.json    agent: how my part of that ended

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
from hpctrain.agent.rank_environment import KEEPER_SECRET
from hpctrain.agent.rank_plan import RankPlan
from hpctrain.errors import StorageError
from hpctrain.files import create_atomic, make_private_dir, write_json_atomic
from hpctrain.ids import Incarnation, NodeName
from hpctrain.jobs.layout import RunDir


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

    def publish_peer(self, endpoint: PeerEndpoint) -> None:
        """Say where this node's writer listens. Raises StorageError."""
        write_json_atomic(self._path("peer", endpoint.node), asdict(endpoint), durable=False)

    def peers(self) -> dict[str, PeerEndpoint]:
        """What agents have published, by node."""
        found = (_read(path) for path in sorted(self._all("peer")))
        return {str(data["node"]): PeerEndpoint(**data) for data in found if data}

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
