"""The keeper as a process: who may talk to it, what it holds for whom, and when it ends."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

xxhash = pytest.importorskip("xxhash")

from hpctrain import process  # noqa: E402 - after the check that xxhash is there
from hpctrain.checkpoint import keeper_wire  # noqa: E402
from hpctrain.checkpoint.arena_memory import BlockError, make_block  # noqa: E402
from hpctrain.checkpoint.keeper import Keeper  # noqa: E402
from hpctrain.checkpoint.keeper_client import KeeperClient, make_secret, shared_secret, start_keeper  # noqa: E402
from hpctrain.checkpoint.keeper_slots import OvertakenError, RefusedError  # noqa: E402
from hpctrain.checkpoint.keeper_store import NoMemoryError  # noqa: E402
from hpctrain.checkpoint.keeper_wire import WireError  # noqa: E402
from hpctrain.checkpoint.memory_budget import Limit  # noqa: E402
from hpctrain.errors import StorageError  # noqa: E402

GIB = 1024 ** 3


@pytest.fixture(scope="module")
def secret() -> Iterator[bytes]:
    """Of a keeper that runs for all tests of this file."""
    value = make_secret()
    child = start_keeper(value, until_pid=os.getpid())
    yield value
    process.kill_group(child)
    child.wait()


def wait_until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_keeper_imports_no_torch() -> None:
    """The keeper's program starts without torch, pydantic or click, in a fraction of a second."""
    code = ("import sys, hpctrain.checkpoint.keeper_main, hpctrain.checkpoint.writer_main;"
            "print([m for m in ('torch', 'numpy', 'pydantic', 'click', 'yaml') if m in sys.modules])")
    assert "[]\n" == process.run([sys.executable, "-c", code], timeout_s=60).stdout


def test_wrong_secret_is_refused(secret: bytes) -> None:
    """Who does not know the secret neither finds the keeper nor, at its address, gets past the handshake."""
    with pytest.raises(WireError, match="there is no keeper"):
        KeeperClient(make_secret())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(keeper_wire.address(secret))
        with pytest.raises(WireError, match="the keeper refuses: the secret is not this job's"):
            keeper_wire.answer_challenge(sock, make_secret())
        with pytest.raises(WireError):
            keeper_wire.receive(sock)


def test_false_keeper_is_refused() -> None:
    """A client does not believe a listener that cannot prove that it knows the secret."""
    mine, theirs = socket.socketpair()

    def pretend() -> None:
        keeper_wire.send(theirs, {"nonce": "00"})
        keeper_wire.receive(theirs)
        keeper_wire.send(theirs, {"proof": "00"})

    thread = threading.Thread(target=pretend)
    thread.start()
    with mine, theirs:
        with pytest.raises(WireError, match="the keeper does not know the secret"):
            keeper_wire.answer_challenge(mine, make_secret())
        thread.join()


def test_other_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's word on who is at the other end counts: another user id is refused before a byte is exchanged."""
    mine, theirs = socket.socketpair()
    with mine, theirs:
        assert (os.getpid(), os.getuid()) == keeper_wire.peer(mine)
        # A second user needs root; the kernel's answer is what a second user would change.
        monkeypatch.setattr(keeper_wire, "peer", lambda _: (1, os.getuid() + 1))
        with pytest.raises(WireError, match="belongs to user id"):
            keeper_wire.challenge(theirs, b"secret")
        mine.setblocking(False)
        with pytest.raises(BlockingIOError):
            mine.recv(1)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_other_user_is_refused_for_real(secret: bytes) -> None:
    """A process of another user that knows the secret is turned away."""
    code = ("import os, sys; from hpctrain.checkpoint import keeper_wire as w; import socket\n"
            "secret = bytes.fromhex(sys.stdin.read()); address = w.address(secret); os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.settimeout(5); s.connect(address)\n"
            "try: print(w.receive(s))\nexcept w.WireError as error: print('refused:', error)")
    result = process.run([sys.executable, "-c", code], stdin=secret.hex(), timeout_s=60)
    assert result.stdout.startswith("refused: "), result.stderr


def test_foreign_bytes_do_no_harm(secret: bytes) -> None:
    """Whatever is sent instead of the protocol ends that connection only."""
    for junk in (b"", b"GET / HTTP/1.0\r\n\r\n", struct.pack("<I", 1 << 31), struct.pack("<I", 4) + b"nope",
                 struct.pack("<I", 2) + b"[]"):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(keeper_wire.address(secret))
            keeper_wire.receive(sock)
            sock.sendall(junk)
            sock.shutdown(socket.SHUT_WR)
            with pytest.raises(WireError):
                while True:
                    keeper_wire.receive(sock)
    client = KeeperClient(secret)
    with pytest.raises(RefusedError, match="there is no request 'dance'"):
        client.request("dance")
    with pytest.raises(RefusedError, match="KeyError: 'rank'"):
        client.request("join")
    assert client.request("holdings")["ranks"] is not None
    client.close()


def test_second_keeper_steps_back(secret: bytes) -> None:
    """Two ranks that start a keeper at the same time get one."""
    assert 0 == start_keeper(secret).wait(timeout=10)
    KeeperClient(secret).close()


def test_keeper_ends_with_its_process() -> None:
    """When the process that it belongs to is killed, the keeper ends, and its address is free."""
    owner = process.start([sys.executable, "-c", "import time; time.sleep(60)"])
    value = make_secret()
    keeper = start_keeper(value, until_pid=owner.pid)
    client = KeeperClient(value)
    process.kill_group(owner)
    owner.wait()

    assert 0 == keeper.wait(timeout=10)
    client.close()


def test_keeper_ends_when_idle() -> None:
    """A keeper that nobody needs any more ends by itself; one connection keeps it."""
    value = make_secret()
    keeper = start_keeper(value, idle_s=0.3)
    client = KeeperClient(value)
    time.sleep(1.5)
    assert keeper.poll() is None
    client.close()
    assert 0 == keeper.wait(timeout=10)


def test_killed_keeper_leaves_nothing(tmp_path: Path) -> None:
    """After a SIGKILL there is no file, no address and no memory; the next keeper starts in its place."""
    value = make_secret()
    keeper = start_keeper(value)
    client = KeeperClient(value)
    client.request("join", rank=0, incarnation=0, slots=2)
    os.close(client.request_handle("begin", size_bytes=1 << 20)[1] or -1)
    keeper.send_signal(signal.SIGKILL)
    keeper.wait()
    with pytest.raises(WireError):
        client.request("holdings")

    second = start_keeper(value)
    KeeperClient(value).close()
    process.kill_group(second)
    second.wait()
    assert [] == list(tmp_path.iterdir())


def test_stopped_keeper_is_given_up() -> None:
    """A keeper that does not answer is an error after the time that was granted, not a hang."""
    value = make_secret()
    keeper = start_keeper(value)
    client = KeeperClient(value, timeout_s=0.2)
    keeper.send_signal(signal.SIGSTOP)
    with pytest.raises(WireError, match="does not answer in time"):
        client.request("holdings")
    process.kill_group(keeper)
    keeper.wait()


def test_lease_of_a_dead_process_is_free(secret: bytes) -> None:
    """A killed process's lease ends with it, though a child that it forked still holds its connection."""
    code = ("import os, sys, time; from hpctrain.checkpoint.keeper_client import KeeperClient\n"
            "c = KeeperClient(bytes.fromhex(sys.stdin.readline()))\n"
            "c.request('join', rank=70, incarnation=0, slots=1); c.request('begin', size_bytes=9)\n"
            "child = os.fork()\nif child: print(child, flush=True)\ntime.sleep(60)")
    child = process.start([sys.executable, "-c", code], stdin=process.PIPE, stdout=process.PIPE)
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(secret.hex().encode() + b"\n")
    child.stdin.close()
    grandchild = int(child.stdout.readline())
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    client = KeeperClient(secret)
    client.request("join", rank=71, incarnation=0, slots=1)
    try:
        def is_free() -> bool:
            try:
                other.request("begin", size_bytes=9)
            except RefusedError:
                return False
            return True

        other = KeeperClient(secret)
        other.request("join", rank=70, incarnation=0, slots=1)
        wait_until(is_free)
        os.kill(grandchild, 0)
    finally:
        os.kill(grandchild, signal.SIGKILL)
        other.close()
        client.close()
        child.stdout.close()


def keeper_in(limits: list[Limit]) -> Keeper:
    keeper = Keeper(lambda: limits, make_block)
    assert keeper.handle(1, {"op": "join", "rank": 0, "incarnation": 0, "slots": 2})[0]
    return keeper


def test_memory_is_refused_with_the_arithmetic() -> None:
    """A block that the node has no room for is not allocated; the answer says how much is missing, and the slot is free."""
    limits = [Limit("the node", 16 * GIB, 2 * GIB)]
    keeper = keeper_in(limits)
    for _ in range(2):
        answer, handle = keeper.handle(1, {"op": "begin", "size_bytes": 3 * GIB})
        assert (answer["kind"], handle) == ("memory", None)
        assert answer["error"] == (
            "a block for slot 0 of rank 0 in the RAM tier needs 3.0 GiB, but the node has room for 1.2 GiB: "
            "2.0 GiB left of 16.0 GiB - 819.2 MiB kept free"
        )
    answer, handle = keeper.handle(1, {"op": "begin", "size_bytes": 1})
    assert answer["slot"] == 0 and handle is not None
    os.close(handle)


def test_memory_that_runs_short_meanwhile_is_refused() -> None:
    """An allocation that the system refuses is an answer of the same kind, and the slot can be tried again."""
    limits = [Limit("the node", 16 * GIB, 8 * GIB)]
    keeper = Keeper(lambda: limits, lambda size, objection: limits.__setitem__(0, Limit("the node", GIB, 0))
                    or make_block(size, objection))
    keeper.handle(1, {"op": "join", "rank": 0, "incarnation": 0, "slots": 2})
    answer, _ = keeper.handle(1, {"op": "begin", "size_bytes": 1})
    assert answer["kind"] == "memory" and "the node has room for 0 B" in answer["error"]
    assert issubclass(NoMemoryError, RefusedError)


def save(keeper: Keeper, step: int, *, need: int = 1, store: str = "own") -> dict[str, object]:
    """One save of rank 0 on connection 1; returns the answer to its begin."""
    answer, handle = keeper.handle(1, {"op": "begin", "size_bytes": need, "store": store})
    if handle is not None:
        os.close(handle)
    if "error" not in answer:
        empty = {"meta_bytes": 0, "shard_count": 0, "seal_offset": 4096, "data_offset": 4096, "size_bytes": 4096,
                 "meta_xxh3": "00" * 16}
        done, _ = keeper.handle(1, {"op": "commit", "slot": answer["slot"], "name": [0, step], "world_size": 1,
                                    "store": store, **empty})
        assert {} == done
    return answer


def held(keeper: Keeper, store: str = "own") -> list[int]:
    return [step for _, step, _ in keeper.handle(9, {"op": "holdings"})[0][store].get("0", [])]


def test_history_is_as_long_as_memory_allows() -> None:
    """Slots beyond the two that a rank needs are used while there is memory; without it, older ones are overwritten."""
    limits = [Limit("the node", 16 * GIB, 8 * GIB)]
    keeper = Keeper(lambda: limits, make_block)
    keeper.handle(1, {"op": "join", "rank": 0, "incarnation": 0, "slots": 6})
    for step in (1, 2, 3):
        save(keeper, step)
    limits[0] = Limit("the node", 16 * GIB, 0)
    for step in (4, 5, 6):
        assert "error" not in save(keeper, step)
    assert [4, 5, 6] == held(keeper)
    limits[0] = Limit("the node", 16 * GIB, 8 * GIB)
    save(keeper, 7)
    assert [4, 5, 6, 7] == held(keeper)


def test_memory_that_ends_while_it_is_taken_shortens_the_history() -> None:
    """An allocation of a third block that the system refuses half way is no error either; one of the first two is."""
    limits, left = [Limit("the node", 16 * GIB, 8 * GIB)], [2]

    def make(size: int, objection: Callable[[int], str]) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise BlockError("not enough memory")
        return make_block(size, objection)

    keeper = Keeper(lambda: limits, make)
    keeper.handle(1, {"op": "join", "rank": 0, "incarnation": 0, "slots": 4, "spares": 1})
    assert ["error" in save(keeper, step) for step in (1, 2, 3, 4)] == [False] * 4
    assert [3, 4] == held(keeper)
    grown = save(keeper, 5, need=4 << 20)
    assert (grown["kind"], grown["error"], held(keeper)) == ("memory", "not enough memory", [4])


def test_copies_are_kept_apart() -> None:
    """A copy of another node's rank and an own part of the same rank and step are two things, dropped one by one."""
    keeper = Keeper(lambda: [], make_block)
    for store in ("own", "peer"):
        keeper.handle(1, {"op": "join", "rank": 0, "incarnation": 0, "slots": 2, "store": store})
        save(keeper, 1, store=store)
    assert [1] == held(keeper) == held(keeper, "peer")
    keeper.handle(1, {"op": "drop", "rank": 0, "incarnation": 0, "name": [0, 1], "store": "peer"})
    assert ([1], []) == (held(keeper), held(keeper, "peer"))
    answer, _ = keeper.handle(1, {"op": "persist", "tier": "shared", "store": "peer", "rank": 0, "incarnation": 0,
                                  "name": [0, 1], "task": {}})
    assert "rank 0 has no complete" in answer["error"]
    assert "there is no store 'other'" in keeper.handle(1, {"op": "join", "rank": 0, "incarnation": 0, "slots": 2,
                                                            "store": "other"})[0]["error"]


def test_orders_say_where_the_part_lies() -> None:
    """An order for a copy is taken with its store, by the tier that it is for; reports can be had for all tiers at once."""
    keeper = Keeper(lambda: [], make_block)
    keeper.handle(1, {"op": "join", "rank": 0, "incarnation": 0, "slots": 2, "store": "peer"})
    save(keeper, 1, store="peer")
    order = {"op": "persist", "tier": "shared", "store": "peer", "rank": 0, "incarnation": 0, "name": [0, 1],
             "task": {"root": "/x"}}
    assert {"replaced": None} == keeper.handle(1, order)[0]
    assert {} == keeper.handle(2, {"op": "take", "tier": "local", "wait_s": 0})[0]
    assert {"tier": "shared", "rank": 0, "name": [0, 1], "task": {"root": "/x"}, "store": "peer"} == keeper.handle(
        2, {"op": "take", "tier": "shared", "wait_s": 0})[0]
    keeper.handle(2, {"op": "finish", "tier": "shared", "rank": 0, "result": {"seconds": 1}})
    report = {"waiting": None, "working": None, "result": {"name": [0, 1], "seconds": 1}}
    assert {"shared": report} == keeper.handle(1, {"op": "persisted", "rank": 0})[0]
    assert report == keeper.handle(1, {"op": "persisted", "rank": 0, "tier": "shared"})[0]


def test_old_incarnation_cannot_commit(secret: bytes) -> None:
    """Through real sockets: a process that was overtaken in the middle of a save is told so, and its bytes go nowhere."""
    old, new = KeeperClient(secret), KeeperClient(secret)
    old.request("join", rank=80, incarnation=4, slots=2)
    begun, handle = old.request_handle("begin", size_bytes=100)
    new.request("join", rank=80, incarnation=5, slots=2)
    fresh, other = new.request_handle("begin", size_bytes=100)
    assert handle is not None and other is not None
    os.pwrite(handle, b"from the past", 5000)

    assert b"\0" * 13 == os.pread(other, 13, 5000)
    with pytest.raises(OvertakenError):
        old.request("commit", slot=begun["slot"], name=[4, 9], world_size=1, meta_bytes=0, shard_count=0, seal_offset=4096,
                    data_offset=4096, size_bytes=4096, meta_xxh3="00" * 16)
    assert fresh["generation"] != begun["generation"]
    assert [] == new.request("holdings")["ranks"]["80"]
    for descriptor in (handle, other):
        os.close(descriptor)
    for client in (old, new):
        client.close()


def test_shared_secret_is_private_and_made_once(tmp_path: Path) -> None:
    """All ranks read the same secret from a private file; one that others could read or that is none is refused."""
    path = tmp_path / "secret"
    assert shared_secret(path) == shared_secret(path)
    assert 0o600 == path.stat().st_mode & 0o777
    path.chmod(0o644)
    with pytest.raises(StorageError, match="others can read"):
        shared_secret(path)
    path.chmod(0o600)
    path.write_text("short\n")
    with pytest.raises(StorageError, match="no secret"):
        shared_secret(path)
