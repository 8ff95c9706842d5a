"""Storage that fails or hangs under the writer: an error in a result, never a crash, never a lost checkpoint."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("xxhash")

from hpctrain import process
from hpctrain.checkpoint.keeper_wire import WireError
from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.tier_local import LocalTier
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.checkpoint.writer_store import RETRY_S, TRANSIENT
from hpctrain.clock import SystemClock
from tests.source_tree import ROOT
from tests.unit.checkpoint import hanging_fuse
from tests.unit.checkpoint.memory_node import Item, Node, RealNode, claimed
from tests.unit.checkpoint.test_crash_points import NEW, OLD, restored
from tests.unit.checkpoint.test_faults import Faults
from tests.unit.checkpoint.test_writer import part, stage
from tests.unit.checkpoint.test_writer_crash_points import whole, write

NEXT = CheckpointName(0, 3)


@pytest.mark.parametrize("tier", ["shared", "local"])
@pytest.mark.parametrize(
    "code", [pytest.param(errno.EIO, marks=pytest.mark.slow), errno.ENOSPC, errno.EROFS, errno.ESTALE],
    ids=errno.errorcode.get,
)
def test_every_call_may_fail_once(tmp_path: Path, tier: str, code: int) -> None:
    """Whichever call of a save by writers fails, the result says so unless the checkpoint is there, the one before stays,
    and the next save works.
    """
    failures, stride, nodes = 0, 1 if code == errno.EIO else 7, [Node(Hurried()), Node(Hurried())]
    for rank, node in enumerate(nodes):
        stage(node, OLD, rank)
        stage(node, NEW, rank)
    for at in range(0, 1000, stride):
        root = claimed(tmp_path / str(at)).root
        write(nodes, tier, OLD, root)
        faults = Faults(code, at)
        with faults.active():
            write(nodes, tier, NEW, root)
        errors = [(node.result(tier, rank) or {}).get("error", "") for rank, node in enumerate(nodes)]
        there = newest(tier, root)
        assert there in ((NEW,) if not any(errors) else (OLD, NEW)), (at, faults.hit, errors)
        failures += any(errors)
        write(nodes, tier, NEW, root, attempt=2)
        assert NEW == newest(tier, root), (at, faults.hit)
        shutil.rmtree(root)
        if not faults.hit:
            break

    assert not faults.hit
    retried = tier == "shared" and code in TRANSIENT  # then only the commit and what comes before the share can fail
    assert 0 < failures * stride < 80 if retried else failures * stride > 20


class Hurried(SystemClock):
    """A clock on which nobody waits, and which remembers who wanted to."""

    def __init__(self) -> None:
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Go on at once."""
        self.sleeps.append(seconds)


@pytest.mark.parametrize(("code", "faults", "tries"), [
    (errno.EIO, 1, 2), (errno.ESTALE, 1, 2), (errno.ETIMEDOUT, 1, 2), (errno.EINTR, 1, 2),
    (errno.EIO, 99, 2), (errno.ESTALE, 99, 2),
    (errno.ENOSPC, 1, 1), (errno.EROFS, 1, 1), (errno.EDQUOT, 1, 1), (errno.EACCES, 1, 1),
])
def test_share_is_written_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, faults: int, tries: int
) -> None:
    """What a network file system says when its server blinks costs a share one more try; what stays so is told at once."""
    node, root, fsync, left = Node(clock := Hurried()), claimed(tmp_path / "checkpoints").root, os.fsync, [code] * faults
    node.stage(0, NEW, part_of(NEW))
    node.order("shared", 0, NEW, root)

    def failing(handle: int) -> None:
        if left:
            raise OSError(left.pop(), os.strerror(code))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)
    node.worker("shared").work_once(0.0)
    result = node.result("shared", 0) or {}

    assert [RETRY_S] * (tries - 1) == clock.sleeps
    assert (faults < tries) is result["committed"]
    assert (os.strerror(code) in result.get("error", "")) is (faults >= tries)
    assert [NEW] * (faults < tries) == SharedTier(root).checkpoints(committed=True)


def newest(tier: str, root: Path) -> CheckpointName:
    """The newest that is there; all that are there must be whole."""
    return restored(SharedTier(root))[0] if tier == "shared" else whole(LocalTier(root))[-1]


@pytest.fixture
def node() -> Iterator[RealNode]:
    """A keeper and a writer that are processes."""
    node = RealNode()
    try:
        yield node
    finally:
        node.close()


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[Path, process.Popen[bytes]]]:
    """A FUSE file system of our own, and its process, to be stopped."""
    place = tmp_path / "hanging"
    place.mkdir()
    argv = [sys.executable, "-m", "tests.unit.checkpoint.hanging_fuse", str(place)]
    child = process.start(argv, stdout=process.PIPE, stderr=process.DEVNULL, cwd=str(ROOT))
    assert child.stdout is not None
    try:
        line = child.stdout.readline().decode().strip()
        if line != "ready":
            pytest.skip(f"a FUSE file system of one's own cannot be mounted here: {line or 'no /dev/fuse'}")
        yield place, child
    finally:
        hanging_fuse.unmount(str(place))
        process.kill_group(child)
        child.wait(timeout=20)
        child.stdout.close()


def test_hanging_file_system_holds_up_its_tier_only(
    node: RealNode, tmp_path: Path, hanging: tuple[Path, process.Popen[bytes]]
) -> None:
    """While the shared file system hangs (a stopped FUSE server), the local tier is written, order after order; when it
    answers again, the order on it ends with what it answers.
    """
    place, server = hanging
    os.kill(server.pid, signal.SIGSTOP)
    node.stage(0, OLD, part_of(OLD))
    node.order("shared", 0, OLD, place / "checkpoints")
    wait_until_taken(node)
    for step in range(2, 5):
        name = CheckpointName(0, step)
        node.stage(0, name, part_of(name), slots=4)
        node.order("local", 0, name, tmp_path / "local", retention={"keep_last": 1})
        assert node.wait_for("local", 0)["committed"]
    assert node.connect().request("persisted", tier="shared", rank=0)["working"] == [0, 1]
    os.kill(server.pid, signal.SIGCONT)

    assert "Read-only file system" in node.wait_for("shared", 0)["error"]


def test_hung_writer_can_be_killed_and_replaced(
    node: RealNode, tmp_path: Path, hanging: tuple[Path, process.Popen[bytes]]
) -> None:
    """A writer that hangs in a file system is killed, and the next one takes its order, and orders of other tiers."""
    place, server = hanging
    os.kill(server.pid, signal.SIGSTOP)
    node.stage(0, OLD, part_of(OLD))
    node.order("shared", 0, OLD, place / "checkpoints")
    wait_until_taken(node)
    process.kill_group(node.writer_process)
    node.writer_process.wait(timeout=20)
    os.kill(server.pid, signal.SIGCONT)
    node.writer_process = node.start_writer()

    assert "Read-only file system" in node.wait_for("shared", 0)["error"]
    node.order("local", 0, OLD, tmp_path / "local")
    assert node.wait_for("local", 0)["committed"]


def part_of(name: CheckpointName) -> list[Item]:
    """The part of the only rank."""
    return part(name, 0, 1)


def wait_until_taken(node: RealNode) -> None:
    """Until the writer has begun with the order on the hanging file system, of which it can see nothing but its name."""
    client, deadline = node.connect(), time.monotonic() + 60
    while client.request("persisted", tier="shared", rank=0)["working"] != [0, 1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    client.close()


def test_killed_writer_is_replaced(node: RealNode, tmp_path: Path) -> None:
    """A writer that is killed at any moment after its orders came loses nothing: they end with a whole checkpoint."""
    root = claimed(tmp_path / "checkpoints").root
    stage(node, NEW, 0, 1)
    for rank in (0, 1):
        node.order("shared", rank, NEW, root, world_size=2)
    process.kill_group(node.writer_process)
    node.writer_process.wait(timeout=20)
    node.writer_process = node.start_writer()
    node.wait_for("shared", 0)

    assert [NEW] == restored(SharedTier(root))


def test_writer_ends_with_its_keeper(node: RealNode) -> None:
    """A writer whose keeper is gone ends, well."""
    process.kill_group(node.keeper_process)

    assert 0 == node.writer_process.wait(timeout=30)


def test_killed_keeper_ends_the_writer_in_order(node: RealNode, tmp_path: Path) -> None:
    """A keeper that is killed while its writer writes, and waits for others, costs one line that says why, no traceback."""
    process.kill_group(node.writer_process)
    node.writer_process.wait(timeout=20)
    node.writer_process = writer = node.start_writer(stderr=process.PIPE)
    root, large = claimed(tmp_path / "checkpoints").root, 64 * 1024 * 1024
    node.stage(0, OLD, [(Shard.whole("model.large", "uint8", (large,)), bytes(large))])
    for tier in ("shared", "local"):
        node.order(tier, 0, OLD, root / tier if tier == "local" else root, world_size=2)
    wait_until_taken(node)
    process.kill_group(node.keeper_process)
    code = writer.wait(timeout=60)
    assert writer.stderr is not None
    with writer.stderr:
        told = writer.stderr.read()

    assert 0 == code
    assert 1 == told.count(b"\n"), told.decode()
    assert told.startswith(b"hpctrain-writer: ends: ")


def test_closed_connection_is_a_keeper_that_is_gone(node: RealNode) -> None:
    """After the keeper was killed every request says so, also those on a connection that was closed at the first."""
    client = node.connect()
    process.kill_group(node.keeper_process)
    node.keeper_process.wait(timeout=20)

    for _ in range(2):
        with pytest.raises(WireError):
            client.request("about")


def test_copies_go_to_the_peer(node: RealNode, tmp_path: Path) -> None:
    """A part is copied into the peer's memory by the two writers, and from there written to the shared tier when the node
    that had it is gone.
    """
    other = RealNode("b", node.secret)
    try:
        client, deadline = other.connect(), time.monotonic() + 60
        while not (listening := client.request("about")["listening"]):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stage(node, NEW, 0, 1)
        node.order("peer", 0, NEW, "")
        assert "this node has no peer" == node.wait_for("peer", 0)["error"]
        node.connect().request("set_peer", node="b", **listening)
        for rank in (0, 1):
            node.order("peer", rank, NEW, "", attempt=2)
        assert {"b"} == {wait_for_success(node, rank)["peer"] for rank in (0, 1)}
        node.close()
        root = claimed(tmp_path / "checkpoints").root
        for rank in (0, 1):
            other.order("shared", rank, NEW, root, world_size=2, store="peer")
        assert other.wait_for("shared", 0)["committed"]
    finally:
        other.close()

    assert [NEW] == restored(SharedTier(root))


def wait_for_success(node: RealNode, rank: int) -> dict[str, object]:
    """A result without an error: that of an earlier order may still be shown."""
    deadline = time.monotonic() + 60
    while "error" in (result := node.wait_for("peer", rank)):
        assert time.monotonic() < deadline, result
    return result
