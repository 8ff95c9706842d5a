"""Brings a part from this node's memory into the peer node's (service).

The bytes go from the keeper's memory to the network without being copied in between. The memory is not reused until the
peer has said that the copy is complete.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Collection
from dataclasses import dataclass

from hpctrain.checkpoint import arena_memory, peer_wire
from hpctrain.checkpoint.arena import HEADER_BYTES
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.peer_wire import Line, Patience, PeerError, PeerOvertakenError
from hpctrain.network import interface_of

SEALED_S = 300.0
"""Longest wait for the keeper to have hashed a part."""


@dataclass(frozen=True, slots=True)
class SendResult:
    """How a part went to the peer.

    Attributes:
        size_bytes: that crossed the network; 0 when the peer had the part already.
        seconds: of the transfer, from the first byte until the peer had committed it.
        interface: through which it left; "" if that cannot be told.
        address: of the peer.
    """

    size_bytes: int
    seconds: float
    interface: str
    address: str

    @property
    def bytes_per_s(self) -> float:
        """Bandwidth."""
        return self.size_bytes / self.seconds if self.seconds > 0 else 0.0


def send_part(
    client: KeeperClient, rank: int, name: CheckpointName, address: tuple[str, int], secret: bytes, *, store: str = "own",
    keep: Collection[CheckpointName] = (), source: str = "", patience: Patience | None = None, seal_s: float = SEALED_S,
) -> SendResult:
    """Copy a part into the memory of the peer node.

    Args:
        client: of this node's keeper, which holds the part.
        address: where the peer's :class:`~hpctrain.checkpoint.peer_receive.PeerReceiver` listens.
        secret: of the job.
        store: of the keeper: ``own``, or ``peer`` for the copy of another node's rank.
        keep: checkpoints that all ranks have copies of: the peer overwrites none of them. Without any it keeps the newest.
        source: address of this node to send from, which chooses the interface; "" leaves that to the system.
        seal_s: longest wait for the keeper to have hashed the part.

    Raises:
        PeerError: the peer has no new copy; the message says why. It has what it had before.
        PeerOvertakenError: a newer incarnation is at work there.
        RefusedError: this node's keeper has no such part.
        ValueError: the part is damaged here.
        WireError: this node's keeper is gone.
        OSError: the part cannot be read.
    """
    answer, handle = client.request_handle(
        "open", rank=rank, name=[name.incarnation, name.step], store=store, wait_s=seal_s, extra_s=seal_s
    )
    try:
        if handle is None:
            raise ValueError("the keeper sent no memory")
        return _send(handle, rank, address, secret, keep=keep, source=source, patience=patience or Patience())
    finally:
        if handle is not None:
            os.close(handle)
        with contextlib.suppress(WireError, RefusedError):  # a keeper that is gone has let go already
            client.request("close", pin=answer["pin"])


def _send(
    handle: int, rank: int, address: tuple[str, int], secret: bytes, *, keep: Collection[CheckpointName], source: str,
    patience: Patience,
) -> SendResult:
    header = arena_memory.read_header(handle)
    where = f"peer {address[0]}:{address[1]}"
    try:
        sock = socket.create_connection(address, patience.stall_s, (source, 0) if source else None)
    except OSError as error:
        reason = "it does not answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise PeerError(f"no connection: {reason}", where=where) from error
    line = Line(sock, patience)
    try:
        peer_wire.answer_challenge(line, secret)
        started = time.monotonic()
        line.send({"rank": rank, "header": header.to_bytes().hex(), "keep": [[one.incarnation, one.step] for one in keep]})
        line.expect(header.size_bytes)  # the peer may have to find memory first
        answer, size_bytes = _checked(line.receive(has_to_work=True), where), 0
        if not answer.get("have"):
            line.expect(header.size_bytes)
            line.send_block(handle, HEADER_BYTES, header.size_bytes)
            _checked(line.receive(), where)
            size_bytes = header.size_bytes
        seconds = time.monotonic() - started
        return SendResult(size_bytes, seconds, interface_of(str(sock.getsockname()[0])), where.removeprefix("peer "))
    except WireError as error:
        raise PeerError(f"rank {rank} is not copied: {error}", where=where) from error
    finally:
        line.close()


def _checked(answer: dict[str, object], where: str) -> dict[str, object]:
    if "error" not in answer:
        return answer
    if answer.get("kind") == "overtaken":
        raise PeerOvertakenError(str(answer["error"]), where=where)
    raise PeerError(str(answer["error"]), where=where)
