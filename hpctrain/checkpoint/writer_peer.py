"""Orders to copy parts into the memory of a peer node (service over the keeper and the network)."""

from __future__ import annotations

from typing import Any

from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.peer_send import SendResult, send_part
from hpctrain.checkpoint.peer_wire import PeerOvertakenError
from hpctrain.checkpoint.writer_order import Notify, Order, done, failed
from hpctrain.checkpoint.writer_source import FAILURES, error_text
from hpctrain.clock import Clock

_NEWS = 2.0
"""Bandwidth is told of anew when it is so many times what was told, or so many times less."""
_NEWS_BYTES = 16 * 1024 * 1024
"""Smaller parts say nothing about bandwidth."""


class PeerWriter:
    """Sends parts to the peer that the keeper names.

    Args:
        secret: of the job.
        source: address of this node to send from; "" leaves that to the system.
        notify: told of the bandwidth: of the first large part, and when it has changed much.
    """

    def __init__(self, client: KeeperClient, secret: bytes, source: str, clock: Clock, notify: Notify) -> None:
        self._client, self._secret, self._source, self._clock, self._notify = client, secret, source, clock, notify
        self._told: dict[str, float] = {}  # peer -> bytes per second

    def begin(self, order: Order) -> dict[str, Any]:
        """Send a part; it is committed there when this returns.

        Raises:
            WireError: the keeper is gone.
        """
        started = self._clock.monotonic()
        peer = self._client.request("peer")
        if not peer["node"]:
            return failed("this node has no peer")
        keep = [CheckpointName(*pair) for pair in order.details.get("keep") or ()]
        try:
            sent = send_part(self._client, order.rank, order.name, (str(peer["addr"]), int(peer["port"])), self._secret,
                             store=order.store, keep=keep, source=self._source)
        except PeerOvertakenError as error:
            return failed(str(error), seconds=self._clock.monotonic() - started, overtaken=True)
        except FAILURES as error:
            return failed(error_text(error), seconds=self._clock.monotonic() - started)
        self._tell(str(peer["node"]), order.name.step, sent)
        return {**done(seconds=self._clock.monotonic() - started, size_bytes=sent.size_bytes, committed=True),
                "bytes_per_s": round(sent.bytes_per_s), "peer": peer["node"]}

    def _tell(self, node: str, step: int, sent: SendResult) -> None:
        rate, told = sent.bytes_per_s, self._told.get(node)
        if sent.size_bytes < _NEWS_BYTES or (told is not None and told / _NEWS < rate < told * _NEWS):
            return
        self._told[node] = rate
        through = f" through {sent.interface}" if sent.interface else ""
        evidence = {"tier": "peer", "peer": node, "address": sent.address, "interface": sent.interface,
                    "bytes_per_s": round(rate), "size_bytes": sent.size_bytes, "seconds": round(sent.seconds, 4)}
        self._notify("checkpoint.peer", f"copies go to {node}{through} at {rate / 1e6:.0f} MB/s", step, evidence)
