"""Several nodes on one host: a keeper and a writer of checkpoints each, paired, killed on demand (adapter over processes).

In a job the agent of each node does this; here nobody else does.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.checkpoint.keeper_client import KeeperClient, shared_secret, start_keeper
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.names import CheckpointName

KEEPER, WRITER = "keeper", "writer"
_PAIR_S, _PAUSE_S = 20.0, 0.01


class Nodes:
    """Keepers and writers; those that have died are started again by :meth:`start`.

    Args:
        secret_file: made here.
        names: of the nodes; each sends copies to the next one, if there are several.
    """

    def __init__(self, secret_file: Path, names: Sequence[str]) -> None:
        self.names, self._file = tuple(names), secret_file
        self._secret = shared_secret(secret_file)
        self._running: dict[tuple[str, str], process.Popen[bytes]] = {}

    def environment(self, node: str) -> dict[str, str]:
        """What ranks on a node need to know."""
        return {"HPCTRAIN_NODE": node, "HPCTRAIN_KEEPER_SECRET_FILE": str(self._file)}

    def start(self) -> None:
        """Start what is missing, and pair the nodes."""
        for node in self.names:
            if not self.runs(node, KEEPER):
                self.kill(node, WRITER)  # of the keeper that is gone
                self._running[node, KEEPER] = start_keeper(self._secret, node, until_pid=os.getpid())
            if not self.runs(node, WRITER):
                self._running[node, WRITER] = self._start_writer(node)
        if len(self.names) > 1:
            for node, peer in zip(self.names, [*self.names[1:], self.names[0]], strict=True):
                self._pair(node, peer)

    def _start_writer(self, node: str) -> process.Popen[bytes]:
        argv = [sys.executable, "-m", "hpctrain.checkpoint.writer_main", "--node", node]
        if len(self.names) > 1:
            argv += ["--peer-bind", "127.0.0.1"]
        child = process.start(argv, stdin=process.PIPE, stdout=process.DEVNULL)
        assert child.stdin is not None
        with child.stdin:
            child.stdin.write(self._secret.hex().encode() + b"\n")
        return child

    def _pair(self, node: str, peer: str) -> None:
        """Tell a node's keeper where its peer's writer listens.

        Raises:
            TimeoutError: it does not listen.
        """
        deadline = time.monotonic() + _PAIR_S
        while time.monotonic() < deadline:
            with contextlib.suppress(WireError, RefusedError):
                where = self.ask(peer, "about").get("listening") or {}
                if where.get("port"):
                    self.ask(node, "set_peer", node=peer, addr=where["addr"], port=where["port"])
                    return
            time.sleep(_PAUSE_S)
        raise TimeoutError(f"the writer of node {peer} does not listen for its peer")

    def runs(self, node: str, what: str) -> bool:
        """Whether a process is alive."""
        child = self._running.get((node, what))
        return child is not None and child.poll() is None

    def kill(self, node: str, what: str) -> None:
        """SIGKILL, if it runs."""
        child = self._running.pop((node, what), None)
        if child is not None:
            process.kill_group(child)
            child.wait()

    def ask(self, at: str, op: str, /, **fields: Any) -> Mapping[str, Any]:
        """A request to a node's keeper.

        Raises:
            WireError, RefusedError: it is gone, or says no.
        """
        with self.client(at) as client:
            return client.request(op, **fields)

    def holdings(self, node: str, tier: str) -> dict[CheckpointName, dict[int, int]]:
        """The parts in a node's memory: by checkpoint, ranks with the size of their world. Empty when its keeper is gone.

        Args:
            tier: ``own``, or ``peer`` for what the node keeps for another.
        """
        found: dict[CheckpointName, dict[int, int]] = {}
        with contextlib.suppress(WireError, RefusedError):
            for rank, names in self.ask(node, "holdings").get(tier, {}).items():
                for incarnation, step, world_size in names:
                    found.setdefault(CheckpointName(incarnation, step), {})[int(rank)] = int(world_size)
        return found

    @contextlib.contextmanager
    def client(self, node: str) -> Iterator[KeeperClient]:
        """A connection to a node's keeper."""
        client = KeeperClient(self._secret, node)
        try:
            yield client
        finally:
            client.close()

    def stop(self) -> None:
        """Kill all."""
        for node, what in list(self._running):
            self.kill(node, what)
