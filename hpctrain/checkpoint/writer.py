"""Makes what is in the node's memory durable: one thread per tier, orders from the keeper (service).

A tier that is slow or hangs holds up its own thread and nothing else. The process can be killed at any moment: the keeper
gives its orders to the next one, which ends each with a whole checkpoint or with none. Needs neither the ranks that saved,
which may be dead, nor torch, nor a process group.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.open_store import open_store
from hpctrain.checkpoint.peer_receive import PeerReceiver
from hpctrain.checkpoint.problems import describe
from hpctrain.checkpoint.writer_local import LocalWriter
from hpctrain.checkpoint.writer_order import PEER, STORES, TIERS, Notify, Order, failed
from hpctrain.checkpoint.writer_peer import PeerWriter
from hpctrain.checkpoint.writer_store import StoreWriter
from hpctrain.clock import Clock, SystemClock

NICE = 10
"""Training has the first claim on the cores."""

_IDLE_S = 5.0
_POLL_FIRST_S, _POLL_LIMIT_S = 0.01, 1.0
_POLL_GROWTH = 1.25
"""An answer is seen late by a quarter of what it took, at most."""
_AGAIN_S = 0.2


class Pending(Protocol):
    """An order that waits for others."""

    @property
    def order(self) -> Order:
        """Which."""

    def ask(self) -> dict[str, Any] | None:
        """Its result; None while there is none."""

    def after(self) -> None:
        """What comes when the keeper knows the result."""


class Work(Protocol):
    """What one tier does with an order."""

    def begin(self, order: Order) -> dict[str, Any] | Pending:
        """Its result, or what to ask for it. Raises WireError."""


class TierWorker:
    """Carries out the orders of one tier on one connection.

    Args:
        client: a connection of its own: orders belong to the connection that took them.
        notify: told of what failed.
    """

    def __init__(self, tier: str, client: KeeperClient, work: Work, notify: Notify) -> None:
        self.tier, self._client, self._work, self._notify = tier, client, work, notify
        self._pending: list[Pending] = []
        self._told: dict[int, str] = {}
        self._pause_s = _POLL_FIRST_S

    @property
    def waits(self) -> bool:
        """Orders are begun and not ended."""
        return bool(self._pending)

    def work_once(self, wait_s: float = _IDLE_S) -> bool:
        """Take an order if there is one within ``wait_s``, and look after those that wait; whether there was one.

        Raises:
            WireError: the keeper is gone.
        """
        wait_s = min(wait_s, self._pause_s) if self._pending else wait_s
        answer = self._client.request("take", tier=self.tier, wait_s=wait_s, extra_s=wait_s)
        taken = "task" in answer
        if taken:
            self._begin(answer)
            self._pause_s = _POLL_FIRST_S
        self._ask_all()
        return taken

    def _begin(self, answer: Mapping[str, Any]) -> None:
        rank, step = int(answer["rank"]), int(answer["name"][1])
        try:
            outcome = self._work.begin(Order.read(self.tier, answer))
        except WireError:
            raise
        except Exception as error:  # noqa: BLE001 - one order must not end the thread that serves all others
            outcome = failed(describe(error))
        if isinstance(outcome, dict):
            self._finish(rank, step, outcome)
        else:
            self._pending.append(outcome)

    def _ask_all(self) -> None:
        for pending in list(self._pending):
            try:
                result = pending.ask()
            except Exception as error:  # noqa: BLE001 - see above
                result = failed(describe(error))
            if result is None:
                continue
            self._pending.remove(pending)
            if self._finish(pending.order.rank, pending.order.name.step, result):
                pending.after()
        self._pause_s = min(_POLL_GROWTH * self._pause_s, _POLL_LIMIT_S) if self._pending else _POLL_FIRST_S

    def _finish(self, rank: int, step: int, result: dict[str, Any]) -> bool:
        try:
            self._client.request("finish", tier=self.tier, rank=rank, result=result)
        except RefusedError:
            return False  # the order is somebody else's by now
        error = str(result.get("error", ""))
        if error and self._told.get(rank) != error:  # not the same again with every save
            evidence = {"tier": self.tier, "rank": rank, "seconds": result["seconds"]}
            self._notify("checkpoint.failed", f"{self.tier}: rank {rank} of step {step}: {error}", step, evidence)
        self._told[rank] = error
        return True


class Writer:
    """All tiers of a node.

    Args:
        connect: to this node's keeper.
        secret: of the job, for the peer.
        notify: told of ``checkpoint.saved``, ``checkpoint.failed`` and ``checkpoint.peer``; by one thread at a time.
        receiver: takes the copies of another node's ranks; None: nobody sends any.
        source: address of this node to send copies from.
    """

    def __init__(
        self, connect: Callable[[], KeeperClient], secret: bytes, notify: Notify, *, receiver: PeerReceiver | None = None,
        source: str = "", clock: Clock | None = None,
    ) -> None:
        self._connect, self._secret, self._clock = connect, secret, clock or SystemClock()
        self._receiver, self._source = receiver, source
        self._listens: tuple[str, int] | None = None
        self._ended, self._lock, self._tell = threading.Event(), threading.Lock(), notify
        self._reason, self._fault = "", list[Exception]()

    def run(self) -> str:
        """Until the keeper is gone; returns how that was noticed.

        Raises:
            Exception: a fault of our own ended a thread; whoever runs this starts it again.
        """
        self._listen()
        for tier in TIERS:
            threading.Thread(target=self._serve, args=(tier,), name=f"writer-{tier}", daemon=True).start()
        self._ended.wait()
        if self._fault:
            raise self._fault[0]
        return self._reason

    def _serve(self, tier: str) -> None:
        try:
            while True:
                client = self._connect()
                with contextlib.suppress(WireError), contextlib.closing(client):
                    if tier == PEER and self._listens is not None:
                        client.request("listening", addr=self._listens[0], port=self._listens[1])
                    worker = TierWorker(tier, client, self.work(tier, client), self._notify)
                    while True:
                        worker.work_once()
                time.sleep(_AGAIN_S)  # it may only have been too busy to answer
        except WireError as error:
            self._reason = self._reason or str(error)
        except Exception as error:  # noqa: BLE001 - it is told by run(), once, and not by each thread on its own
            self._fault.append(error)
        finally:
            self._ended.set()

    def work(self, tier: str, client: KeeperClient) -> Work:
        """What carries out a tier's orders."""
        if tier in STORES:
            return StoreWriter(client, open_store, self._clock, self._notify)
        if tier == PEER:
            return PeerWriter(client, self._secret, self._source, self._clock, self._notify)
        return LocalWriter(client, self._clock)

    def _listen(self) -> None:
        if self._receiver is None:
            return
        try:
            self._listens = self._receiver.start()
        except (OSError, ValueError) as error:
            reason = f"this node cannot take copies of a peer: {describe(error)}"
            self._notify("checkpoint.degraded", reason, 0, {"tier": PEER})

    def _notify(self, kind: str, reason: str, step: int, evidence: Mapping[str, Any]) -> None:
        with self._lock, contextlib.suppress(Exception):  # whoever listens must not stop the writing
            self._tell(kind, reason, step, evidence)


def run_writer(secret: bytes, node: str, notify: Notify, *, peer_bind: str | None = None) -> str:
    """Work until the keeper is gone, with low priority; returns how that was noticed.

    Args:
        node: name of this node, where several share a host.
        peer_bind: address of this node for copies, those that it takes and those that it sends; None: it takes none.
    """
    with contextlib.suppress(OSError):
        os.nice(NICE)  # with it comes a low priority on disks whose scheduler knows any
    receiver = PeerReceiver(secret, node, peer_bind) if peer_bind is not None else None
    return Writer(lambda: KeeperClient(secret, node), secret, notify, receiver=receiver, source=peer_bind or "").run()
