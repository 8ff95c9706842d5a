"""Copies on a peer node: byte for byte, only for who knows the secret, and never at the price of the copy before."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("xxhash")

from hpctrain import process
from hpctrain.checkpoint import keeper_wire, peer_wire
from hpctrain.checkpoint.keeper import Keeper
from hpctrain.checkpoint.keeper_client import KeeperClient, make_secret, start_keeper
from hpctrain.checkpoint.keeper_slots import RefusedError
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.memory_budget import Limit
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.peer_receive import PeerReceiver
from hpctrain.checkpoint.peer_send import SendResult, send_part
from hpctrain.checkpoint.peer_wire import Line, Patience, PeerError, PeerOvertakenError
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.tier_ram_parts import MemoryParts
from hpctrain.network import interface_of
from tests.unit.checkpoint.memory_node import Item, Node

MIB = 1024 ** 2
RANK = 3
HASTY = Patience(stall_s=0.5, extra_s=5)


def name(step: int, incarnation: int = 0) -> CheckpointName:
    return CheckpointName(incarnation, step)


def items(step: int, size: int = 100_000) -> list[Item]:
    """A large tensor, an empty one and many small ones, different for every step."""
    noise = random.Random(step)
    sizes = {"big": size, "empty": 0, **{f"small.{number}": 1 + number for number in range(100)}}
    return [(Shard.whole(key, "uint8", (count,)), noise.randbytes(count)) for key, count in sizes.items()]


def copies(node: Node, store: str = "peer") -> MemoryParts:
    client = node.connect()
    return MemoryParts(lambda: client, store, 99)


def assert_has(node: Node, which: CheckpointName, expected: list[Item], rank: int = RANK, store: str = "peer") -> None:
    """A part is there, and every byte of it is right."""
    tier = copies(node, store)
    assert rank in tier.holdings().get(which, {}), f"{which} is not there"
    part = tier.open(which, rank)
    assert [shard for shard, _ in expected] == [stored.shard for stored in part.shards]
    for stored, (_, data) in zip(part.shards, expected, strict=True):
        target = bytearray(stored.size_bytes)
        part.read_into(stored, memoryview(target))
        assert data == bytes(target), stored.shard.name
    part.close()


class Pair:
    """A node that sends to another one; both keepers are real and in this process."""

    def __init__(self) -> None:
        self.secret, self.a, self.b = make_secret(), Node(), Node()
        self.receiver, self.address = self.listen(self.connect)

    def listen(self, connect: Callable[[], Any]) -> tuple[PeerReceiver, tuple[str, int]]:
        receiver = PeerReceiver(self.secret, "b", "127.0.0.1", connect=connect, patience=HASTY)
        return receiver, receiver.start()

    def connect(self) -> KeeperClient:
        return self.b.connect()

    def stage(self, step: int, incarnation: int = 0, size: int = 100_000) -> list[Item]:
        staged = items(step, size)
        self.a.stage(RANK, name(step, incarnation), staged, world_size=4)
        return staged

    def send(self, step: int, incarnation: int = 0, *, rank: int = RANK, **options: Any) -> SendResult:
        options = {"secret": self.secret, "address": self.address, "patience": HASTY, **options}
        return send_part(self.a.connect(), rank, name(step, incarnation), options.pop("address"), options.pop("secret"),
                         **options)


@pytest.fixture
def nodes() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.receiver.close()


def test_part_is_on_the_peer_byte_for_byte(nodes: Pair) -> None:
    """What arrives is what was saved, beside the peer's own part of the same rank and step; the transfer is measured."""
    sent = nodes.stage(1)
    nodes.b.stage(RANK, name(1), items(77), world_size=4)
    result = nodes.send(1)

    assert_has(nodes.b, name(1), sent)
    assert_has(nodes.b, name(1), items(77), store="own")
    assert {name(1): {RANK: 4}} == copies(nodes.b).holdings()
    assert {} == copies(nodes.a).holdings()
    assert result.size_bytes > sum(len(data) for _, data in sent) and result.bytes_per_s > 0
    assert (interface_of("127.0.0.1"), f"127.0.0.1:{nodes.address[1]}") == (result.interface, result.address)


def test_part_that_is_there_is_not_sent_again(nodes: Pair) -> None:
    """A second try after an answer that was lost moves no bytes, and pushes no older copy out."""
    sent = nodes.stage(1)
    nodes.send(1)
    nodes.stage(2)
    nodes.send(2)
    assert 0 == nodes.send(2).size_bytes
    assert_has(nodes.b, name(1), sent)


def test_two_copies_take_turns(nodes: Pair) -> None:
    """The newest copy stays while the next one comes; what the sender says that all have stays longer."""
    for step in (1, 2, 3):
        nodes.stage(step)
        nodes.send(step)
    assert [name(2), name(3)] == sorted(copies(nodes.b).holdings())
    nodes.stage(4)
    nodes.send(4, keep=[name(2)])
    assert [name(2), name(4)] == sorted(copies(nodes.b).holdings())
    copies(nodes.b).drop(name(4))
    assert [name(2)] == sorted(copies(nodes.b).holdings())


def test_only_who_knows_the_secret_sends(nodes: Pair) -> None:
    """A sender with another secret is turned away before it can say anything, and so is one that sends something else."""
    nodes.stage(1)
    with pytest.raises(PeerError, match=r"127\.0\.0\.1:\d+: rank 3 is not copied: it refuses: the secret is not this job's"):
        nodes.send(1, secret=make_secret())
    for junk in (b"GET / HTTP/1.0\r\n\r\n", b"\xff\xff\xff\xff", b"\x02\0\0\0[]"):
        with socket.create_connection(nodes.address, timeout=5) as sock, contextlib.suppress(OSError):
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(4096):
                pass
    assert {} == copies(nodes.b).holdings()
    nodes.send(1)


class FakePeer:
    """Listens, and does with a connection what a test wants."""

    def __init__(self, behave: Callable[[Line, socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._behave = behave
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        sock, _ = self._listener.accept()
        self._behave(Line(sock, Patience(stall_s=30)), sock)


def test_false_peer_gets_nothing(nodes: Pair) -> None:
    """A listener that cannot prove that it knows the secret gets neither the part nor its description."""
    heard: list[Any] = []

    def pretend(line: Line, _: socket.socket) -> None:
        line.send({"nonce": "00"})
        heard.append(line.receive())
        line.send({"proof": "00"})
        with pytest.raises(WireError):
            heard.append(line.receive())
        heard.append("hung up")

    peer = FakePeer(pretend)
    nodes.stage(1)
    with pytest.raises(PeerError, match="it does not know the secret"):
        nodes.send(1, address=peer.address)
    wait_until(lambda: len(heard) == 2)
    assert {"nonce", "proof"} == set(heard[0])


@pytest.mark.parametrize("bytes_per_s", [0, 200_000])
def test_peer_that_stops_reading_is_given_up(nodes: Pair, bytes_per_s: int) -> None:
    """A peer that takes no more, or hardly anything, costs a bounded time, and then is an error that says so."""
    done = threading.Event()

    def stall(line: Line, sock: socket.socket) -> None:
        peer_wire.challenge(line, nodes.secret)
        line.receive()
        line.send({"slot": 0})
        while bytes_per_s and not done.wait(0.05):
            sock.recv(bytes_per_s // 20)
        done.wait(30)

    peer = FakePeer(stall)
    nodes.stage(1, size=48 * MIB)
    started = time.monotonic()
    with pytest.raises(PeerError, match=r"nothing moves for 0\.5 s, or less than 67\.11 MB/s"):
        nodes.send(1, address=peer.address, patience=Patience(0.5, 64 * MIB, 0.25))
    assert time.monotonic() - started < 10
    done.set()
    nodes.send(1)


def test_every_flipped_bit_is_caught(nodes: Pair) -> None:
    """A bit that is wrong on arrival, in the description, the hashes or the data, makes no copy; the one before stays."""
    first = nodes.stage(1)
    nodes.send(1)
    nodes.stage(2)
    with copies(nodes.a, "own").open(name(2), RANK) as part:
        header, shards = part.header, part.shards
    places = [4096, 4095 + header.meta_bytes, header.seal_offset, header.seal_offset + 16 * len(shards) - 1]
    places += [place for stored in (shards[0], shards[2], shards[-1])
               for place in (stored.offset_bytes, stored.offset_bytes + stored.size_bytes - 1)]
    block = nodes.a.blocks[RANK, name(2)]
    for number, place in enumerate(places):
        (byte,) = os.pread(block, 1, place)
        os.pwrite(block, bytes([byte ^ 1 << number % 8]), place)
        with pytest.raises(PeerError, match="damaged"):
            nodes.send(2)
        assert [name(1)] == sorted(copies(nodes.b).holdings())
        os.pwrite(block, bytes([byte]), place)
    assert_has(nodes.b, name(1), first)
    nodes.send(2)


def test_overtaken_sender_is_turned_away(nodes: Pair) -> None:
    """Once the peer has seen a newer incarnation, of its own ranks or of copies, an older one brings nothing any more."""
    nodes.stage(1)
    nodes.send(1)
    nodes.b.stage(0, name(1, incarnation=1), items(1))
    with pytest.raises(PeerOvertakenError, match="incarnation 1 has taken over; incarnation 0 may no longer save"):
        nodes.send(1)

    newer = Pair()
    newer.stage(1, incarnation=2)
    newer.send(1, 2)
    newer.a.stage(0, name(9, 2), items(9))
    with pytest.raises(PeerOvertakenError):
        send_part(nodes.a.connect(), RANK, name(1), newer.address, newer.secret, patience=HASTY)
    newer.receiver.close()


def test_sender_that_is_overtaken_meanwhile_commits_nothing(nodes: Pair) -> None:
    """A newer incarnation that comes while the bytes are on their way wins: they are never committed."""
    nodes.stage(1)

    class Late:
        """A connection before whose commit a newer incarnation arrives."""

        def __init__(self) -> None:
            self._client = nodes.b.connect()

        def __getattr__(self, key: str) -> Any:
            return getattr(self._client, key)

        def request(self, op: str, **fields: Any) -> dict[str, Any]:
            if op == "commit":
                nodes.b.connect().request("join", rank=0, incarnation=7, slots=2)
            return self._client.request(op, **fields)

    receiver, address = nodes.listen(Late)
    with pytest.raises(PeerOvertakenError):
        nodes.send(1, address=address)
    receiver.close()
    assert {} == copies(nodes.b).holdings()


def test_peer_without_memory_says_so(nodes: Pair) -> None:
    """A peer that is short of memory answers with the arithmetic; the sender's own checkpoint and the peer's stay."""
    staged = nodes.stage(1)
    nodes.b.keeper = Keeper(lambda: [Limit("the node", 1 << 30, 1 << 20)])
    with pytest.raises(PeerError, match=r"slot 0 of rank 3 in the copies of other nodes' ranks needs .* kept free"):
        nodes.send(1)
    assert_has(nodes.a, name(1), staged, store="own")


def test_what_is_not_there_is_not_sent(nodes: Pair) -> None:
    """A part that this node does not hold, and a peer that nobody listens at, are different errors."""
    with pytest.raises(RefusedError, match="rank 3 has no complete"):
        nodes.send(5)
    nodes.stage(1)
    nodes.receiver.close()
    with pytest.raises(PeerError, match="no connection: Connection refused"):
        nodes.send(1)


def test_receiver_listens_on_one_address_only() -> None:
    """A receiver is bound to the address that it was given, and refuses one that stands for all."""
    for wildcard in ("0.0.0.0", "::"):
        with pytest.raises(ValueError, match="name the one of the interface"):
            PeerReceiver(b"", "", wildcard).start()
    receiver = PeerReceiver(make_secret(), "", "127.0.0.2")
    _, port = receiver.start()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    receiver.close()


def wait_until(condition: Callable[[], Any], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


# --- with processes that are killed ---------------------------------------------------------------------------------------

RECEIVE = """
import sys, time
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.peer_receive import PeerReceiver
secret, node = bytes.fromhex(sys.stdin.readline()), sys.argv[1]
client = KeeperClient(secret, node)
host, port = PeerReceiver(secret, node, "127.0.0.1").start()
client.request("listening", addr=host, port=port)
time.sleep(600)
"""
SEND = """
import sys
from hpctrain.checkpoint.keeper_client import KeeperClient
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.peer_send import send_part
secret, (node, port, step) = bytes.fromhex(sys.stdin.readline()), sys.argv[1:]
send_part(KeeperClient(secret, node), 3, CheckpointName(0, int(step)), ("127.0.0.1", int(port)), secret)
"""


class Held:
    """A line between two nodes that stops after some bytes, until it is told to go on."""

    def __init__(self, target: tuple[str, int], after_bytes: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._target, self._after = target, after_bytes
        self.stopped, self.go = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        inner, _ = self._listener.accept()
        outer = socket.create_connection(self._target)
        threading.Thread(target=self._pass, args=(outer, inner, 1 << 60), daemon=True).start()
        self._pass(inner, outer, self._after)

    def _pass(self, source: socket.socket, target: socket.socket, left: int) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
                left -= len(data)
                if left < 0 and not self.go.is_set():
                    self.stopped.set()
                    self.go.wait(60)
        except OSError:
            pass
        for end in (source, target):
            end.close()


class Real(Node):
    """A node whose keeper and receiver are processes."""

    def __init__(self, secret: bytes, node: str) -> None:
        self.secret, self.node, self.blocks = secret, node, {}
        self.children: dict[str, process.Popen[bytes]] = {}
        self.start_keeper()

    def start_keeper(self) -> None:
        self.children["keeper"] = start_keeper(self.secret, self.node, until_pid=os.getpid())

    def start_receiver(self) -> None:
        self.children["receiver"] = started(RECEIVE, self.secret, self.node)

    def connect(self) -> KeeperClient:
        return KeeperClient(self.secret, self.node)

    def address(self) -> tuple[str, int]:
        wait_until(lambda: self.connect().request("about")["listening"])
        where = self.connect().request("about")["listening"]
        return where["addr"], where["port"]

    def kill(self, what: str) -> None:
        child = self.children.pop(what)
        child.send_signal(signal.SIGKILL)
        child.wait()


def started(program: str, secret: bytes, *arguments: str) -> process.Popen[bytes]:
    child = process.start([sys.executable, "-c", program, *arguments], stdin=process.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin is not None
    child.stdin.write(secret.hex().encode() + b"\n")
    child.stdin.close()
    return child


@pytest.fixture
def real() -> Iterator[tuple[Real, Real]]:
    secret = make_secret()
    pair = Real(secret, "a"), Real(secret, "b")
    pair[1].start_receiver()
    yield pair
    for node in pair:
        for what in list(node.children):
            node.kill(what)


def send(real: tuple[Real, Real], step: int, port: int = 0) -> None:
    address = ("127.0.0.1", port) if port else real[1].address()
    send_part(real[0].connect(), RANK, name(step), address, real[0].secret)


def test_kill_in_the_middle_loses_nothing(real: tuple[Real, Real]) -> None:
    """Whoever is killed in the middle of a transfer, sender, receiver or one of the keepers: the copy before stays whole,
    unless its memory itself is gone, and the next transfer succeeds.
    """
    a, b = real
    size = 2 * MIB
    staged = {step: items(step, size) for step in range(1, 6)}
    a.stage(RANK, name(1), staged[1], world_size=4)
    send(real, 1)

    a.stage(RANK, name(2), staged[2], world_size=4)
    held = Held(b.address(), size // 2)
    child = started(SEND, a.secret, "a", str(held.port), "2")
    assert held.stopped.wait(30)
    child.send_signal(signal.SIGKILL)  # the sender
    child.wait()
    held.go.set()
    assert_has(b, name(1), staged[1])
    send(real, 2)
    assert_has(b, name(2), staged[2])

    a.stage(RANK, name(3), staged[3], world_size=4)
    held = Held(b.address(), size // 2)
    errors: list[PeerError] = []

    def try_it(step: int, port: int) -> None:
        try:
            send(real, step, port)
        except PeerError as error:
            errors.append(error)

    thread = threading.Thread(target=try_it, args=(3, held.port))
    thread.start()
    assert held.stopped.wait(30)
    b.kill("receiver")
    held.go.set()
    thread.join(30)
    assert ["rank 3 is not copied: the other end is gone"] == [error.message for error in errors]
    wait_until(lambda: b.connect().request("about")["listening"] is None)
    assert_has(b, name(2), staged[2])
    b.start_receiver()

    held = Held(b.address(), size // 2)
    thread = threading.Thread(target=try_it, args=(3, held.port))
    thread.start()
    assert held.stopped.wait(30)
    a.kill("keeper")  # the bytes are on their way from memory that lives as long as somebody looks at it
    held.go.set()
    thread.join(30)
    assert 1 == len(errors)
    assert_has(b, name(3), staged[3])

    a.start_keeper()
    a.stage(RANK, name(4), staged[4], world_size=4)
    held = Held(b.address(), size // 2)
    thread = threading.Thread(target=try_it, args=(4, held.port))
    thread.start()
    assert held.stopped.wait(30)
    b.kill("keeper")
    held.go.set()
    thread.join(30)
    assert "the memory of the peer: the other end is gone" in str(errors[1])
    assert_has(a, name(4), staged[4], store="own")
    b.start_keeper()
    b.kill("receiver")
    b.start_receiver()
    send(real, 4)
    assert_has(b, name(4), staged[4])


def test_stopped_receiver_is_given_up(real: tuple[Real, Real]) -> None:
    """A receiver that is stopped (SIGSTOP) is given up in time; when it goes on, the next transfer succeeds."""
    a, b = real
    staged = items(1)
    a.stage(RANK, name(1), staged, world_size=4)
    address = b.address()
    b.children["receiver"].send_signal(signal.SIGSTOP)
    with pytest.raises(PeerError, match=r"does not answer in time"):
        send_part(a.connect(), RANK, name(1), address, a.secret, patience=HASTY)
    b.children["receiver"].send_signal(signal.SIGCONT)
    send(real, 1)
    assert_has(b, name(1), staged)


def test_keeper_knows_the_peer_and_who_listens(real: tuple[Real, Real]) -> None:
    """The peer's address outlives the writer; the writer's own holds as long as its connection does."""
    a, b = real
    client = a.connect()
    assert {"node": "", "addr": "", "port": 0} == client.request("peer")
    host, port = b.address()
    client.request("set_peer", node="b", addr=host, port=port)
    client.close()
    assert {"node": "b", "addr": host, "port": port} == a.connect().request("peer") == a.connect().request("about")["peer"]
    b.kill("receiver")
    wait_until(lambda: b.connect().request("about")["listening"] is None)
    a.connect().request("set_peer", node="", addr="", port=0)
    assert "" == a.connect().request("peer")["node"]


def test_messages_are_bounded() -> None:
    """A message that is announced longer than any of ours is refused before it is read."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        theirs.sendall((peer_wire.MESSAGE_BYTES + 1).to_bytes(4, "little"))
        with pytest.raises(WireError, match="65537 bytes is announced"):
            keeper_wire.receive(mine, peer_wire.MESSAGE_BYTES)
