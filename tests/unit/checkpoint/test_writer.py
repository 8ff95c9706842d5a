"""Orders to the writer: shares of several nodes become one checkpoint without a process group, whatever fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("xxhash")

from hpctrain.checkpoint.commit import claim
from hpctrain.checkpoint.names import COMMIT, CheckpointName, failed_file, share_file, tensor_file
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.checkpoint.writer_store import PROBES
from hpctrain.errors import StorageError
from tests.unit.checkpoint.memory_node import Item, Node, claimed, work_off
from tests.unit.checkpoint.test_crash_points import NEW, OLD, content, own, restored


def part(name: CheckpointName, rank: int, ranks: int = 2) -> list[Item]:
    """A rank's row of the one tensor; see :func:`test_crash_points.save`."""
    size = len(content(name, 0))
    return [(Shard("model.rows", "uint8", (ranks, size), (rank, 0), (1, size)), content(name, rank))]


def stage(node: Node, name: CheckpointName, *ranks: int) -> None:
    """Put the parts of ranks (of two) into a node's memory."""
    for rank in ranks:
        node.stage(rank, name, part(name, rank), own(name, rank), world_size=2)


def names_in(folder: Path) -> set[str]:
    """All files of a checkpoint."""
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Of a shared tier that incarnation 0 has claimed."""
    return claimed(tmp_path / "checkpoints").root


def test_two_nodes_commit_together(root: Path) -> None:
    """Two writers on two nodes that do not know each other make one whole checkpoint, and leave nothing else behind."""
    nodes = [Node(), Node()]
    for rank, node in enumerate(nodes):
        stage(node, NEW, rank)
        node.order("shared", rank, NEW, root, world_size=2)
    work_off(*(node.worker("shared") for node in nodes))

    assert [NEW] == restored(SharedTier(root))
    assert {"__0_0.distcp", "__1_0.distcp", "rank-00000.json", "rank-00001.json", ".metadata", "manifest.json", "commit.json"
            } == names_in(root / str(NEW))
    results = [node.result("shared", rank) for rank, node in enumerate(nodes)]
    assert [True, False] == [result and result["committed"] for result in results]
    assert all(result and result["size_bytes"] > 0 and "error" not in result for result in results)
    kind, _, step, evidence = nodes[0].events[0]
    assert ("checkpoint.saved", 2, "shared") == (kind, step, evidence["tier"])
    assert evidence["size_bytes"] > evidence["bytes_per_s"] * 0
    assert [] == nodes[1].events


def test_waiting_commit_holds_nobody_up(root: Path) -> None:
    """While rank 0's order waits for another node, the same thread writes the share of another rank of its own node."""
    node, other = Node(), Node()
    node.stage(0, NEW, part(NEW, 0, 3), world_size=3)
    node.stage(1, NEW, part(NEW, 1, 3), world_size=3)
    other.stage(2, NEW, part(NEW, 2, 3), world_size=3)
    node.order("shared", 0, NEW, root, world_size=3)
    worker = node.worker("shared")
    assert worker.work_once(0.0)
    assert worker.waits
    node.order("shared", 1, NEW, root, world_size=3)
    assert worker.work_once(0.0)
    assert node.result("shared", 1)
    assert node.result("shared", 0) is None
    other.order("shared", 2, NEW, root, world_size=3)
    work_off(worker, other.worker("shared"))

    assert [NEW] == SharedTier(root).checkpoints(committed=True)


def test_all_shares_are_found_at_once(root: Path) -> None:
    """However many ranks there are, their shares are all found the first time that they are looked for."""
    node, ranks = Node(), PROBES + 8
    for rank in reversed(range(ranks)):
        node.stage(rank, NEW, [(Shard("t", "uint8", (ranks,), (rank,), (1,)), bytes([rank]))], world_size=ranks)
        node.order("shared", rank, NEW, root, world_size=ranks)
    worker = node.worker("shared")
    for _ in range(ranks):
        assert worker.work_once(0.0)

    assert not worker.waits
    assert [NEW] == SharedTier(root).checkpoints(committed=True)


def test_failed_rank_ends_the_order(root: Path) -> None:
    """A rank that cannot write tells why; rank 0's order ends at once with that reason, and nothing is left."""
    node, other = Node(), Node()
    stage(node, NEW, 0)
    other.stage(1, NEW, part(NEW, 1), world_size=2)
    node.order("shared", 0, NEW, root, world_size=2)
    other.order("shared", 1, NEW, root, world_size=2)
    worker = node.worker("shared")
    worker.work_once(0.0)
    (root / str(NEW) / tensor_file(1)).mkdir()  # nothing can be renamed to this
    other.worker("shared").work_once(0.0)
    result, theirs = other.result("shared", 1), None
    work_off(worker)
    theirs = node.result("shared", 0)

    assert result and "directory" in result["error"]
    assert theirs and f"rank 1: {result['error']}" == theirs["error"]
    assert not (root / str(NEW)).exists()
    assert ["checkpoint.failed"] == [event[0] for event in node.events]


def test_patience_ends(root: Path) -> None:
    """A rank that never tells anything costs the checkpoint when rank 0's patience ends; the message names the rank."""
    node = Node()
    stage(node, NEW, 0)
    node.order("shared", 0, NEW, root, world_size=2, patience_s=0.0)
    work_off(node.worker("shared"))
    result = node.result("shared", 0)

    assert result and result["error"] == "no share of rank 1 after 0 s"
    assert [] == SharedTier(root).checkpoints(committed=False)


def test_attempts_are_not_mixed(root: Path) -> None:
    """A share, and a failure, of an earlier attempt count for nothing in the next one."""
    node, other = Node(), Node()
    stage(node, NEW, 0)
    stage(other, NEW, 1)
    other.order("shared", 1, NEW, root, attempt=1)
    work_off(other.worker("shared"))
    (root / str(NEW) / failed_file(1, 1)).write_text("of the first attempt")
    node.order("shared", 0, NEW, root, world_size=2, attempt=2)
    worker = node.worker("shared")
    worker.work_once(0.0)
    assert worker.waits
    other.order("shared", 1, NEW, root, attempt=2)
    work_off(worker, other.worker("shared"))

    assert [NEW] == restored(SharedTier(root))


@pytest.mark.parametrize("spoil", ["cut", "flipped", "other"])
def test_damaged_share_is_not_used(root: Path, spoil: str) -> None:
    """A share file that is cut off, has a flipped bit, or is of another checkpoint ends the order."""
    node, other = Node(), Node()
    stage(node, NEW, 0)
    stage(other, NEW, 1)
    other.order("shared", 1, NEW, root)
    work_off(other.worker("shared"))
    file = root / str(NEW) / share_file(1, 1)
    text = file.read_bytes()
    place = text.index(b"rank-00001")
    flipped = text[:place] + b"R" + text[place + 1:]
    file.write_bytes({"cut": text[:-5], "flipped": flipped, "other": text}[spoil])
    if spoil == "other":
        file.rename(file.with_name(share_file(1, 2)))
    node.order("shared", 0, NEW, root, world_size=2, attempt=2 if spoil == "other" else 1)
    work_off(node.worker("shared"))
    result = node.result("shared", 0)

    assert result and result["error"].startswith("rank 1: its share is")
    assert [] == SharedTier(root).checkpoints(committed=True)


def test_removed_files_do_not_become_a_checkpoint(root: Path) -> None:
    """A share that speaks of a file that somebody has removed ends the order."""
    node, other = Node(), Node()
    stage(node, NEW, 0)
    stage(other, NEW, 1)
    other.order("shared", 1, NEW, root)
    work_off(other.worker("shared"))
    (root / str(NEW) / tensor_file(1)).unlink()
    node.order("shared", 0, NEW, root, world_size=2)
    work_off(node.worker("shared"))
    result = node.result("shared", 0)

    assert result and result["error"] == "rank 1: __1_0.distcp is not there any more"


def test_older_incarnation_writes_nothing(root: Path) -> None:
    """A writer whose ranks have been overtaken neither writes a share, nor commits, nor touches what is there."""
    node = Node()
    stage(node, NEW, 0, 1)
    node.order("shared", 0, NEW, root, world_size=2)
    worker = node.worker("shared")
    worker.work_once(0.0)
    claim(SharedTier(root), 1)
    before = sorted(map(str, root.rglob("*")))
    node.order("shared", 1, NEW, root)
    work_off(worker)
    results = [node.result("shared", rank) for rank in (0, 1)]

    assert [True, True] == [result and result["overtaken"] for result in results]
    assert all("incarnation 1 has taken over" in result["error"] for result in results if result)
    assert before == sorted(map(str, root.rglob("*")))


def test_next_writer_takes_over(root: Path) -> None:
    """A writer that dies while rank 0's order waits leaves it to the next one, which ends it."""
    node = Node()
    stage(node, NEW, 0, 1)
    node.order("shared", 0, NEW, root, world_size=2)
    worker = node.worker("shared")
    worker.work_once(0.0)
    worker._client.close()
    node.order("shared", 1, NEW, root)
    work_off(node.worker("shared"))

    assert [NEW] == restored(SharedTier(root))
    assert (node.result("shared", 0) or {})["committed"]


def test_order_that_was_committed_is_done(root: Path) -> None:
    """A writer that died between its commit and its answer is believed: the next one answers, and changes nothing."""
    node = Node()
    stage(node, NEW, 0, 1)
    for rank in (0, 1):
        node.order("shared", rank, NEW, root, world_size=2)
    work_off(node.worker("shared"))
    record = (root / str(NEW) / COMMIT).stat()
    for rank in (0, 1):
        node.order("shared", rank, NEW, root, world_size=2, attempt=2)
    work_off(node.worker("shared"))

    assert [True, True] == [(node.result("shared", rank) or {})["committed"] for rank in (0, 1)]
    assert record.st_ino == (root / str(NEW) / COMMIT).stat().st_ino


def test_late_writer_does_not_break_what_was_committed(root: Path) -> None:
    """A hung writer of the same share that wakes up after the commit leaves the checkpoint as it is."""
    node = Node()
    stage(node, NEW, 0, 1)
    for rank in (0, 1):
        node.order("shared", rank, NEW, root, world_size=2)
    work_off(node.worker("shared"))
    tier = SharedTier(root)
    before = sorted((path.name, path.stat().st_ino) for path in tier.folder(NEW).iterdir())
    with pytest.raises(StorageError, match="committed by somebody else"):
        tier.write_share(NEW, 1, part(NEW, 1), own(NEW, 1))

    assert [NEW] == restored(tier)
    assert before == sorted((path.name, path.stat().st_ino) for path in tier.folder(NEW).iterdir())


def test_retention_and_remains(root: Path) -> None:
    """After a commit older checkpoints go as the retention says, pinned ones stay, and so do no remains of failed saves."""
    node = Node()
    tier = SharedTier(root)
    tier.prepare(CheckpointName(0, 0))
    for step in range(1, 5):
        name = CheckpointName(0, step)
        stage(node, name, 0, 1)
        for rank in (0, 1):
            node.order("shared", rank, name, root, world_size=2, attempt=step, retention={"keep_last": 1})
        work_off(node.worker("shared"))
        if step == 2:
            tier.write_file(name, "pin.json", json.dumps({"reason": "mine", "time": 0}).encode())

    assert [2, 4] == [name.step for name in tier.checkpoints(committed=True)]
    assert [] == tier.checkpoints(committed=False)


def test_best_by_metric_is_kept(root: Path) -> None:
    """The retention knows the metrics in the commit records."""
    tier, node = SharedTier(root), Node()
    for step, loss in ((1, 0.5), (2, 0.9), (3, 0.7)):
        name = CheckpointName(0, step)
        node.stage(0, name, part(name, 0, 1), own(name, 0))
        world = {"world_size": 1, "metrics": {"loss": loss}}
        retention = {"keep_last": 1, "keep_best": {"metric": "loss", "mode": "min", "count": 1}}
        commit = {"world_size": 1, "world": world, "time": 0.0, "reason": "test", "retention": retention, "patience_s": 1}
        node.connect().request("persist", tier="shared", rank=0, incarnation=0, name=[0, step],
                               task={"root": str(root), "attempt": 1, "commit": commit})
        work_off(node.worker("shared"))

    assert [1, 3] == [name.step for name in tier.checkpoints(committed=True)]


def test_memory_that_went_bad_is_not_committed(root: Path) -> None:
    """Bytes that are not those that the keeper sealed end the order."""
    node = Node()
    node.stage(0, NEW, part(NEW, 0, 1), own(NEW, 0))
    client = node.connect()
    client.request("close", pin=client.request("open", rank=0, name=[0, 2], wait_s=10)["pin"])  # it is sealed now
    handle = node.blocks[0, NEW]
    os.pwrite(handle, b"S", os.pread(handle, os.fstat(handle).st_size, 0).rindex(b"state of"))
    node.order("shared", 0, NEW, root)
    work_off(node.worker("shared"))
    result = node.result("shared", 0)

    assert result and "model.rows is damaged in memory" in result["error"]
    assert [] == SharedTier(root).checkpoints(committed=True)


@pytest.mark.parametrize("task", [{}, {"root": 5, "commit": {"world_size": 2}}, {"commit": 3}, {"root": "nothing://at/all"}])
def test_nonsense_is_answered(task: dict[str, object]) -> None:
    """An order that makes no sense fails with a reason; the next one is served."""
    node = Node()
    node.stage(0, NEW, part(NEW, 0, 1))
    task = {"root": "/dev/null/x", **task}
    node.connect().request("persist", tier="shared", rank=0, incarnation=0, name=[0, 2], task=task)
    work_off(node.worker("shared"))

    assert (node.result("shared", 0) or {})["error"]


@pytest.mark.parametrize("root", ["", "checkpoints", "./checkpoints", "../x"])
def test_place_that_depends_on_the_working_directory_is_refused(root: str) -> None:
    """The writer has a working directory of its own, so an order for a relative path is answered with an error."""
    node = Node()
    node.stage(0, NEW, part(NEW, 0, 1))
    node.connect().request("persist", tier="shared", rank=0, incarnation=0, name=[0, 2], task={"root": root})
    work_off(node.worker("shared"))

    assert "absolute path" in (node.result("shared", 0) or {})["error"]


def test_what_is_not_in_memory_is_answered(root: Path) -> None:
    """A part that was dropped after the order was posted is a reported failure, and other writers hear of it."""
    node = Node()
    stage(node, OLD, 1)
    node.order("shared", 1, OLD, root)
    node.connect().request("drop", rank=1, incarnation=0, name=[0, 1])
    work_off(node.worker("shared"))

    assert "rank 1 has no complete" in (node.result("shared", 1) or {})["error"]
    assert (root / str(OLD) / failed_file(1, 1)).exists()
