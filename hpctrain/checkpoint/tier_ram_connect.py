"""Finds this node's keeper, or starts one (adapter over its process).

In a job the node's agent holds the memory, and says so in the environment. Anywhere else the first rank of a node starts a
keeper, which ends by itself when nobody has needed it for a while.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from hpctrain import process
from hpctrain.checkpoint.keeper_client import KeeperClient, read_secret, shared_secret, start_keeper, start_writer
from hpctrain.checkpoint.keeper_wire import WireError

SECRET_FILE_VARIABLE = "HPCTRAIN_KEEPER_SECRET_FILE"  # noqa: S105 - the name of the variable, not a secret
NODE_VARIABLE = "HPCTRAIN_NODE"
SECRET_FILE = ".ram-tier.secret"  # noqa: S105 - a name, too
IDLE_S = 600.0
"""How long a keeper that we started waits for ranks to come back."""

_TRIES, _TRY_AGAIN_S = 10, 0.05


class KeeperConnector:
    """Connects; starts what is missing unless the agent is in charge.

    Args:
        secret: of the job.
        node: this node's name.
        may_start: nobody else starts a keeper here.
        writer: start a writer process as well.
    """

    def __init__(self, secret: bytes, node: str = "", *, may_start: bool = True, writer: bool = False,
                 idle_s: float = IDLE_S) -> None:
        self._secret, self._node, self._may_start, self._writer = secret, node, may_start, writer
        self._idle_s = idle_s
        self._children: list[process.Popen[bytes]] = []

    @classmethod
    def from_env(cls, env: Mapping[str, str], root: Path, *, writer: bool = False) -> KeeperConnector:
        """The agent's keeper if it says that there is one; else one of our own for the checkpoints in ``root``.

        Raises:
            StorageError: the secret cannot be read, or made in ``root``, or must not be trusted.
        """
        node = env.get(NODE_VARIABLE, "")
        if env.get(SECRET_FILE_VARIABLE):
            return cls(read_secret(Path(env[SECRET_FILE_VARIABLE])), node, may_start=False)
        return cls(shared_secret(root / SECRET_FILE), node, writer=writer)

    def _connect_soon(self) -> KeeperClient:
        """Another rank's keeper may have its address already and not listen yet."""
        for _ in range(_TRIES):
            with contextlib.suppress(WireError):
                return KeeperClient(self._secret, self._node)
            time.sleep(_TRY_AGAIN_S)
        return KeeperClient(self._secret, self._node)

    def __call__(self) -> KeeperClient:
        """A new connection.

        Raises:
            WireError: there is no keeper, and none could be started.
        """
        self._children = [child for child in self._children if child.poll() is None]
        try:
            return KeeperClient(self._secret, self._node)
        except WireError:
            if not self._may_start:
                raise
        self._children.append(start_keeper(self._secret, self._node, idle_s=self._idle_s))
        client = self._connect_soon()
        if self._writer:
            self._children.append(start_writer(self._secret, self._node))
        return client
