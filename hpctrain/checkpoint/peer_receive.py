"""Takes copies of another node's ranks into this node's memory (service).

One thread listens, one serves each sender; memory belongs to this node's keeper. A sender that dies, or stops, leaves an
attempt that was never committed: what was there before is still whole.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from hpctrain.checkpoint import arena_memory, peer_wire
from hpctrain.checkpoint.arena import HEADER_BYTES, Header
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import OvertakenError, RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.peer_seal import SealCheck
from hpctrain.checkpoint.peer_wire import Line, Patience

SLOTS = 2
"""Copies of a rank that are held: the newest that all have, and the one that is coming."""

ALLOCATION_RATE = 256 * 1024 * 1024
"""Bytes per second that even a slow machine clears."""

_TOUCH_BYTES = 64 * 1024 * 1024

SENDERS = 64
"""Connections at the same time; others are turned away."""


class PeerReceiver:
    """Listens for a peer that sends its ranks' parts.

    Args:
        secret: of the job.
        node: this node's name, as its keeper has it.
        bind_address: of this node, on the network that copies shall take.
        connect: makes connections to this node's keeper.
    """

    def __init__(
        self, secret: bytes, node: str, bind_address: str, *, patience: Patience | None = None,
        connect: Callable[[], KeeperClient] | None = None,
    ) -> None:
        self._secret, self._bind, self._patience = secret, bind_address, patience or Patience()
        self._connect = connect or (lambda: KeeperClient(secret, node))
        self._listener: socket.socket | None = None
        self._free = threading.BoundedSemaphore(SENDERS)

    def start(self) -> tuple[str, int]:
        """Listen, in threads of our own; returns the address and port to tell the peer.

        Raises:
            OSError: the address is not this node's.
            ValueError: it stands for all addresses: nobody could be told where we listen.
        """
        family, kind, protocol, _, address = socket.getaddrinfo(self._bind, 0, type=socket.SOCK_STREAM)[0]
        if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_unspecified:
            raise ValueError(f"{self._bind!r} is every address of this node; name the one of the interface to use")
        listener = socket.socket(family, kind, protocol)
        try:
            listener.bind(address)
            listener.listen(SENDERS)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="peer-listen", daemon=True).start()
        host, port = listener.getsockname()[:2]
        return str(host), int(port)

    def close(self) -> None:
        """Listen no more. Transfers that have begun go on."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                if listener.fileno() < 0 or self._listener is None:
                    return
                threading.Event().wait(1.0)  # out of descriptors, say: the next moment may be better
                continue
            if not self._free.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock,), name="peer-receive", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            with contextlib.closing(Line(sock, self._patience)) as line, contextlib.suppress(WireError, OSError):
                peer_wire.challenge(line, self._secret)
                self._answer(line)
        finally:
            self._free.release()

    def _answer(self, line: Line) -> None:
        try:
            self._take(line, line.receive())
        except OvertakenError as error:
            line.send({"error": str(error), "kind": "overtaken"})
        except (RefusedError, ValueError, KeyError, TypeError, OSError) as error:
            text = str(error) if isinstance(error, (RefusedError, ValueError)) else f"{type(error).__name__}: {error}"
            line.send({"error": text, "kind": "refused"})

    def _take(self, line: Line, message: Mapping[str, Any]) -> None:
        rank, header = int(message["rank"]), Header.from_bytes(bytes.fromhex(message["header"]))
        if not header.is_sealed or not HEADER_BYTES <= header.data_offset <= header.size_bytes:
            raise ValueError("the part has no hashes, or a header that cannot be")
        try:
            client = self._connect()
        except WireError as error:
            raise ValueError(f"the memory of the peer: {error}") from None
        with contextlib.closing(client):
            with _keeper_errors():
                client.request("join", store="peer", rank=rank, incarnation=header.incarnation, slots=SLOTS)
                if _has(client, rank, header):
                    line.send({"have": True})
                    return
                answer, handle = client.request_handle(
                    "begin", store="peer", size_bytes=header.size_bytes, keep=message.get("keep", []),
                    extra_s=header.size_bytes / ALLOCATION_RATE,
                )
            assert handle is not None  # noqa: S101 - for the type checker: a new connection has no block yet
            try:
                line.send({"slot": answer["slot"]})
                line.expect(header.size_bytes)
                self._fill(line, handle, header)
            finally:
                os.close(handle)
            with _keeper_errors():
                client.request("commit", store="peer", slot=answer["slot"], **_commit_fields(header))
        line.send({})

    def _fill(self, line: Line, handle: int, header: Header) -> None:
        """Receive everything behind the header, and compare every hash.

        Raises:
            ValueError: something is not what the sender has.
            WireError: the sender is gone, or too slow.
        """
        with arena_memory.map_block(handle, writable=True) as mapping, memoryview(mapping) as view:
            line.receive_block(view, HEADER_BYTES, header.data_offset)
            check, wrong = None, ""
            try:
                meta, layout = arena_memory.read_meta(handle, header)
                check = SealCheck(meta.shards, layout.shard_offsets, arena_memory.read_seal(handle, header))
            except ValueError as error:
                wrong = f"{error}, as it arrived"
            # To the end in any case: a sender that is cut off would not read what we have to say.
            for start in range(header.data_offset, header.size_bytes, _TOUCH_BYTES):
                end = min(start + _TOUCH_BYTES, header.size_bytes)
                arena_memory.touch(mapping, start, end)
                line.receive_block(view, start, end, lambda end: check.advance(view, end) if check is not None else None)
            wrong = wrong or (check.problem() if check is not None else "")
        if wrong:
            raise ValueError(wrong)


def _has(client: KeeperClient, rank: int, header: Header) -> bool:
    """The copy is here: the answer to an earlier try was lost. Another one would take the place of an older checkpoint."""
    try:
        answer, handle = client.request_handle(
            "open", store="peer", rank=rank, name=[header.incarnation, header.step], wait_s=0.0
        )
    except RefusedError:
        return False
    if handle is None:
        return False
    try:
        return arena_memory.read_header(handle) == header
    finally:
        os.close(handle)
        client.request("close", pin=answer["pin"])


def _commit_fields(header: Header) -> dict[str, Any]:
    return {
        "name": [header.incarnation, header.step], "world_size": header.world_size, "meta_bytes": header.meta_bytes,
        "shard_count": header.shard_count, "seal_offset": header.seal_offset, "data_offset": header.data_offset,
        "size_bytes": header.size_bytes, "meta_xxh3": header.meta_xxh3.hex(), "seal_xxh3": header.seal_xxh3.hex(),
    }


@contextlib.contextmanager
def _keeper_errors() -> Any:
    """What fails between us and our keeper is something to tell the sender, not the end of its line."""
    try:
        yield
    except WireError as error:
        raise ValueError(f"the memory of the peer: {error}") from error
