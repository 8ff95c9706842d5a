"""Parts on the node's own disk, and whole checkpoints of the parts of several nodes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.distributed.checkpoint as dcp  # noqa: E402 - after the check that torch is there

from hpctrain.checkpoint import catalogue  # noqa: E402
from hpctrain.checkpoint.commit import FencedError  # noqa: E402
from hpctrain.checkpoint.join_parts import join_parts, joinable  # noqa: E402
from hpctrain.checkpoint.keeper_slots import RefusedError  # noqa: E402
from hpctrain.checkpoint.names import CheckpointName, part_file, rank_file, tensor_file  # noqa: E402
from hpctrain.checkpoint.parts import Part, PartTier  # noqa: E402
from hpctrain.checkpoint.shard_reader import DamagedError  # noqa: E402
from hpctrain.checkpoint.shards import Shard  # noqa: E402
from hpctrain.checkpoint.tier_local import LocalTier  # noqa: E402
from hpctrain.checkpoint.tier_shared import SharedTier  # noqa: E402
from hpctrain.errors import CheckpointError, StorageError  # noqa: E402
from tests.unit.checkpoint.memory_node import Item, Node, work_off  # noqa: E402
from tests.unit.checkpoint.test_crash_points import NEW, OLD, content  # noqa: E402
from tests.unit.checkpoint.test_writer import stage  # noqa: E402
from tests.unit.checkpoint.test_writer_crash_points import whole, write  # noqa: E402


@pytest.fixture
def nodes() -> list[Node]:
    """Two nodes with one rank's part each, of two steps."""
    nodes = [Node(), Node()]
    for rank, node in enumerate(nodes):
        stage(node, OLD, rank)
        stage(node, NEW, rank)
    return nodes


@pytest.fixture
def tier(tmp_path: Path, nodes: list[Node]) -> LocalTier:
    """The disk of one node that has both parts of the older step."""
    write(nodes, "local", OLD, tmp_path / "disk")
    return LocalTier(tmp_path / "disk")


def test_local_tier_holds_parts(tier: LocalTier) -> None:
    """What was written is held, opened and read; everything is private."""
    parts: PartTier = tier
    part: Part = parts.open(OLD, 1)
    target = bytearray(part.shards[0].size_bytes)
    part.read_into(part.shards[0], memoryview(target))
    part.close()

    assert {OLD: {0: 2, 1: 2}} == parts.holdings()
    assert ("local", 2, content(OLD, 1)) == (parts.tier, part.world_size, bytes(target))
    assert ({"aliases": {}, "replicated": ""}, {"world_size": 2}, "test") == (part.share, part.world, part.reason)
    assert [OLD] == whole(tier)
    assert {0o700} == {stat.S_IMODE(path.stat().st_mode) for path in (tier.root, tier.folder(OLD))}
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in tier.folder(OLD).iterdir()}


def test_nothing_is_there(tmp_path: Path) -> None:
    """A disk that was never written, or that is gone, holds nothing; to open a part of it is refused."""
    tier = LocalTier(tmp_path / "never")

    assert {} == tier.holdings()
    tier.drop(OLD)
    tier.prune(1)
    with pytest.raises(RefusedError):
        tier.open(OLD, 0)


@pytest.mark.parametrize("file", [part_file(0), tensor_file(0), rank_file(0)])
def test_every_bit_of_a_part_counts(tier: LocalTier, file: str) -> None:
    """A flipped bit in any byte that a restore uses is found when the part is opened or read."""
    path = tier.folder(OLD) / file
    original, unnoticed = path.read_bytes(), []
    stored = tier.open(OLD, 0).shards[0]
    places = range(len(original))
    if file == tensor_file(0):  # what surrounds the raw bytes is for other tools: verify and join read it anew
        places = range(stored.offset_bytes, stored.offset_bytes + stored.size_bytes)
    for place in places:
        path.write_bytes(original[:place] + bytes([original[place] ^ 1 << place % 8]) + original[place + 1:])
        try:
            part = tier.open(OLD, 0)
            part.read_into(part.shards[0], memoryview(bytearray(stored.size_bytes)))
            unnoticed.append(place)
        except (ValueError, DamagedError):
            pass

    assert [] == unnoticed


def test_short_file_is_not_held(tier: LocalTier) -> None:
    """A part whose file was cut off is not said to be there."""
    path = tier.folder(OLD) / tensor_file(0)
    os.truncate(path, path.stat().st_size - 1)

    assert {OLD: {1: 2}} == tier.holdings()


@pytest.mark.parametrize("what", ["root", "folder", "file", "link"])
def test_what_others_can_write_is_not_opened(tier: LocalTier, what: str) -> None:
    """A part that somebody else could have put there is refused."""
    path = {"root": tier.root, "folder": tier.folder(OLD)}.get(what, tier.folder(OLD) / tensor_file(0))
    if what == "link":
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))
    else:
        path.chmod(path.stat().st_mode | 0o020)
    with pytest.raises(ValueError, match=r"can be written by others|is a symbolic link"):
        tier.open(OLD, 0)


def test_older_incarnation_may_not_write(tier: LocalTier, nodes: list[Node]) -> None:
    """Once a newer incarnation has claimed the disk, an older one's order fails and changes nothing."""
    tier.claim(1)
    before = sorted(map(str, tier.root.rglob("*")))
    nodes[0].order("local", 0, NEW, tier.root)
    work_off(nodes[0].worker("local"))
    result = nodes[0].result("local", 0) or {}

    assert result["overtaken"]
    assert "incarnation 1 has taken over" in result["error"]
    assert before == sorted(map(str, tier.root.rglob("*")))
    with pytest.raises(FencedError):
        tier.claim(0)


def test_retention_keeps_one_to_spare(tmp_path: Path) -> None:
    """With keep_last 1 the newest and the one before stay, because other nodes may not have the newest yet; and what the
    order says must stay.
    """
    node, tier = Node(), LocalTier(tmp_path / "disk")
    for step in range(1, 6):
        name = CheckpointName(0, step)
        stage(node, name, 0)
        node.order("local", 0, name, tier.root, retention={"keep_last": 1}, keep=[[0, 2]])
        work_off(node.worker("local"))

    assert [2, 4, 5] == [name.step for name in tier.holdings()]


def test_dropped_part_is_gone(tier: LocalTier, nodes: list[Node]) -> None:
    """What a rewind drops is not held any more; the rest is."""
    write(nodes, "local", NEW, tier.root)
    tier.drop(NEW)

    assert [OLD] == list(tier.holdings())
    assert not tier.folder(NEW).exists()


@pytest.mark.parametrize("root", ["/dev/null/disk", "/proc/disk"])
def test_disk_that_is_gone(nodes: list[Node], root: str) -> None:
    """A disk that is no directory, or cannot be written, is an error in the result; the next order is served."""
    nodes[0].order("local", 0, OLD, root)
    worker = nodes[0].worker("local")
    work_off(worker)

    assert root in (nodes[0].result("local", 0) or {})["error"]
    assert ["checkpoint.failed"] == [event[0] for event in nodes[0].events]


# --- whole checkpoints of the parts of several nodes ------------------------------------------------------------------


def tensors(rank: int) -> list[Item]:
    """Rows of a tensor of four, one per rank; and a tensor of rank 1 only, with another name besides."""
    rows = torch.arange(32, dtype=torch.float32).reshape(4, 8)
    mine = rows[2 * rank:2 * rank + 2].contiguous()
    items = [(Shard("model.rows", "float32", (4, 8), (2 * rank, 0), (2, 8)), mine.numpy().tobytes())]
    if rank == 1:
        items.append((Shard.whole("model.tied", "bfloat16", (3,)), bytes(torch.ones(3, dtype=torch.bfloat16).view(
            torch.uint8).tolist())))
    return items


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """The disks of two nodes, each with the part of one rank."""
    found = []
    for rank in range(2):
        node = Node()
        node.stage(rank, NEW, tensors(rank), f'{{"rank": {rank}}}', world_size=2,
                   aliases={"model.other": "model.tied"} if rank == 1 else {})
        node.order("local", rank, NEW, tmp_path / f"node{rank}")
        work_off(node.worker("local"))
        found.append(tmp_path / f"node{rank}")
    return found


def test_joined_parts_are_a_checkpoint_for_stock_torch(folders: list[Path], tmp_path: Path) -> None:
    """The parts of two nodes become a checkpoint in a shared tier, which torch's own dcp.load reads without our code."""
    shared = SharedTier(tmp_path / "archive")
    assert [NEW] == joinable(folders)
    read: list[int] = []
    size_bytes = join_parts(folders, shared, NEW, on_bytes=read.append)
    state = {"model.rows": torch.empty(4, 8), "model.tied": torch.empty(3, dtype=torch.bfloat16),
             "model.other": torch.empty(3, dtype=torch.bfloat16)}
    dcp.load(state, checkpoint_id=str(shared.folder(NEW)))

    assert torch.equal(torch.arange(32.0).reshape(4, 8), state["model.rows"])
    assert torch.equal(torch.ones(3, dtype=torch.bfloat16), state["model.tied"])
    assert torch.equal(state["model.tied"], state["model.other"])
    assert () == catalogue.verify(shared, NEW).problems
    assert (4 * 8 * 4 + 3 * 2, True) == (sum(read), size_bytes > sum(read))
    assert b'{"rank": 1}' == shared.read(NEW, shared.open(NEW)[1], rank_file(1))


def test_missing_part_is_named(folders: list[Path], tmp_path: Path) -> None:
    """Without the folder of one node there is nothing to join, and the message says whose part is missing."""
    assert [] == joinable(folders[:1])
    with pytest.raises(CheckpointError, match="no part of rank 1 in any of these folders"):
        join_parts(folders[:1], SharedTier(tmp_path / "archive"), NEW)
    assert [] == SharedTier(tmp_path / "archive").entries()


def test_damaged_part_is_not_joined(folders: list[Path], tmp_path: Path) -> None:
    """A flipped bit in a node's tensors ends the join; no checkpoint comes to exist."""
    path = folders[1] / str(NEW) / tensor_file(1)
    data = bytearray(path.read_bytes())
    data[2048] ^= 1
    path.write_bytes(data)
    shared = SharedTier(tmp_path / "archive")
    with pytest.raises(CheckpointError, match=r"model\.rows has not the xxh3 hash"):
        join_parts(folders, shared, NEW)

    assert [] == shared.checkpoints(committed=True)


def test_join_does_not_replace(folders: list[Path], tmp_path: Path) -> None:
    """A checkpoint that is there already stays as it is."""
    shared = SharedTier(tmp_path / "archive")
    join_parts(folders, shared, NEW)
    with pytest.raises(StorageError, match="there already"):
        join_parts(folders, shared, NEW)
