"""A rank, a sender or a receiver that dies at any request or byte: in memory, the step before or the new one is whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("xxhash")

from hpctrain.checkpoint import tier_ram  # noqa: E402 - after the checks that both are there
from hpctrain.checkpoint.keeper_client import KeeperClient, make_secret  # noqa: E402
from hpctrain.checkpoint.names import CheckpointName  # noqa: E402
from hpctrain.checkpoint.peer_receive import PeerReceiver  # noqa: E402
from hpctrain.checkpoint.peer_send import send_part  # noqa: E402
from hpctrain.checkpoint.peer_wire import Line, Patience, PeerError  # noqa: E402
from hpctrain.checkpoint.shards import Shard  # noqa: E402
from hpctrain.checkpoint.tier_ram import RamTier  # noqa: E402
from hpctrain.checkpoint.tier_ram_copy import ArenaBlock  # noqa: E402
from hpctrain.checkpoint.tier_ram_parts import MemoryParts  # noqa: E402
from tests.unit.checkpoint.memory_node import Node  # noqa: E402

ELEMENTS, TENSORS = 3000, 8
QUICK = Patience(stall_s=5, extra_s=5)


class Killed(BaseException):
    """The process ends here; nothing catches it."""


class Crash:
    """Counts the steps of a process, and ends it at one of them.

    Args:
        at: number of the step; -1 never.
    """

    def __init__(self, at: int = -1) -> None:
        self.at, self.steps = at, 0

    def step(self) -> None:
        """One more."""
        self.steps += 1
        if self.steps - 1 == self.at:
            raise Killed


class Dying:
    """A connection of a process that may end before or after each request; the keeper sees it go."""

    def __init__(self, client: KeeperClient, crash: Crash) -> None:
        self._client, self._crash = client, crash

    def request_handle(self, op: str, **fields: Any) -> tuple[dict[str, Any], int | None]:
        """Ask."""
        self._crash.step()
        answer = self._client.request_handle(op, **fields)
        self._crash.step()
        return answer

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Ask for something that brings no descriptor."""
        return self.request_handle(op, **fields)[0]

    def close(self) -> None:
        """Hang up, as a process that ends does, too."""
        self._client.close()


def tensors(step: int) -> list[tuple[Shard, Any]]:
    values = [torch.full((ELEMENTS,), 1000 * step + number, dtype=torch.int32) for number in range(TENSORS)]
    return [(Shard.whole(f"t{number}", "int32", (ELEMENTS,)), value) for number, value in enumerate(values)]


def whole_steps(node: Node, store: str, rank: int = 0) -> list[int]:
    """Steps that can be opened, read, verified, and are what was saved; one that is held and cannot is a failure."""
    client = node.connect()
    tier = MemoryParts(lambda: client, store, 99)
    steps = [name.step for name, ranks in sorted(tier.holdings().items()) if rank in ranks]
    for step in steps:
        part = tier.open(CheckpointName(0, step), rank)
        for stored, (_, tensor) in zip(part.shards, tensors(step), strict=True):
            target = bytearray(stored.size_bytes)
            part.read_into(stored, memoryview(target))
            assert tensor.numpy().tobytes() == bytes(target)
        part.close()
    client.close()
    return steps


def stage(node: Node, step: int, crash: Crash, clients: list[Dying]) -> None:
    """A rank's process that joins, saves one step, and ends, one way or the other."""
    def connect() -> KeeperClient:
        clients.append(Dying(node.connect(), crash))
        return cast("KeeperClient", clients[-1])

    tier = RamTier(connect, rank=0, world_size=1, incarnation=0)
    try:
        result = tier.stage(step, tensors(step), "{}")
        assert result.ok, result.error
    finally:
        for client in clients:
            client.close()


class StepwiseBlock(ArenaBlock):
    """Memory that is filled tensor by tensor, each of which may be the last thing that the process does."""

    crash = Crash()

    def copy_in(self, shards: Any, offsets: Any, values: Any) -> None:
        """Copy, and perhaps end in the middle."""
        for shard, offset, tensor in zip(shards, offsets, values, strict=True):
            self.crash.step()
            super().copy_in([shard], (offset,), [tensor])

    def write(self, offset: int, data: bytes) -> None:
        """Write half, and perhaps end."""
        super().write(offset, data[: len(data) // 2])
        self.crash.step()
        super().write(offset, data)


def test_rank_that_dies_at_any_step_of_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before or after any request, tensor or half of the description: the step before is whole, or both are.

    The next start saves as if nothing had been.
    """
    monkeypatch.setattr(tier_ram, "ArenaBlock", StepwiseBlock)
    counted = Crash()
    StepwiseBlock.crash = counted
    stage(Node(), 1, counted, [])
    assert counted.steps == 3 * 2 + TENSORS + 1  # join, begin, commit
    seen = set()
    for at in range(counted.steps):
        node = Node()
        for step in (1, 2):
            StepwiseBlock.crash = Crash()
            stage(node, step, StepwiseBlock.crash, [])
        StepwiseBlock.crash = Crash(at)
        with pytest.raises(Killed):
            stage(node, 3, StepwiseBlock.crash, [])
        steps = whole_steps(node, "own")
        assert 2 in steps and set(steps) <= {1, 2, 3}
        seen.add(tuple(steps))
        StepwiseBlock.crash = Crash()
        stage(node, 4, StepwiseBlock.crash, [])
        assert 4 in whole_steps(node, "own")
    assert {(1, 2), (2,), (2, 3)} == seen


class CutLine(Line):
    """A sender's line that breaks at one of its steps: before or after a message, or after any part of the block."""

    crash = Crash()

    def send(self, message: dict[str, Any]) -> None:
        """Send, or end before or after it."""
        self.crash.step()
        super().send(message)
        self.crash.step()

    def receive(self, *, has_to_work: bool = False) -> dict[str, Any]:
        """Receive, or end after it."""
        answer = super().receive(has_to_work=has_to_work)
        self.crash.step()
        return answer

    def send_block(self, handle: int, start: int, end: int) -> None:
        """Send piece by piece."""
        for first in range(start, end, 9000):
            super().send_block(handle, first, min(first + 9000, end))
            self.crash.step()


class Transfer:
    """Two nodes with step 1 and 2 on the first, and a copy of step 1 on the second."""

    def __init__(self, connect: Callable[[Node], KeeperClient] = lambda node: node.connect()) -> None:
        self.a, self.b, self.secret = Node(), Node(), make_secret()
        for step in (1, 2):
            self.a.stage(0, CheckpointName(0, step), [(shard, value.numpy().tobytes()) for shard, value in tensors(step)])
        receiver = PeerReceiver(self.secret, "b", "127.0.0.1", patience=QUICK, connect=self.b.connect)
        self.send(1, receiver)
        self._receiver = PeerReceiver(self.secret, "b", "127.0.0.1", patience=QUICK, connect=lambda: connect(self.b))

    def send(self, step: int, receiver: PeerReceiver | None = None) -> None:
        receiver = receiver or self._receiver
        address = receiver.start()
        try:
            send_part(self.a.connect(), 0, CheckpointName(0, step), address, self.secret, patience=QUICK)
        finally:
            receiver.close()


def test_sender_that_dies_at_any_step_of_a_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before or after any message or piece of the block: the copy before is whole, and the next transfer succeeds."""
    def run(at: int) -> int:
        transfer = Transfer()
        crash = CutLine.crash = Crash(at)
        with monkeypatch.context() as patched:
            patched.setattr("hpctrain.checkpoint.peer_send.Line", CutLine)
            if at < 0:
                transfer.send(2)
                return crash.steps
            with pytest.raises(Killed):
                transfer.send(2)
        assert 1 in whole_steps(transfer.b, "peer")
        transfer.send(2)
        assert [1, 2] == whole_steps(transfer.b, "peer")
        assert [1, 2] == whole_steps(transfer.a, "own")
        return crash.steps

    steps = run(-1)
    assert steps > 15
    for at in range(steps):
        run(at)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_receiver_that_dies_at_any_request() -> None:
    """Killed before or after any request to its keeper: the sender hears of it, and the copy before is whole.

    The next transfer succeeds.
    """
    seen = set()
    for at in range(7):  # join, open (refused), begin, commit
        crash = Crash(at)

        def connect(node: Node, crash: Crash = crash) -> KeeperClient:
            return cast("KeeperClient", Dying(node.connect(), crash))

        transfer = Transfer(connect)
        with pytest.raises(PeerError):
            transfer.send(2)
        steps = whole_steps(transfer.b, "peer")
        assert 1 in steps
        seen.add(tuple(steps))
        transfer.send(2)
        assert [1, 2] == whole_steps(transfer.b, "peer")
    assert {(1,), (1, 2)} == seen
