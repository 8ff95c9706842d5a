"""A whole save by writers, ended at every file operation in every way a crash can end it: two ranks, two kinds of tier."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("xxhash")

from hpctrain.checkpoint.names import CheckpointName
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.tier_local import LocalTier
from hpctrain.checkpoint.tier_shared import SharedTier
from tests.unit.checkpoint.crash_points import Tree, make
from tests.unit.checkpoint.memory_node import Node, work_off
from tests.unit.checkpoint.test_crash_points import NEW, OLD, Disk, Outcome, content, disk, own, restored, save, start_again
from tests.unit.checkpoint.test_writer import stage

_ = disk  # the fixture

RETENTION = {"keep_last": 1}


@pytest.fixture
def nodes() -> list[Node]:
    """Two nodes, each with one rank's part of the new checkpoint in its memory."""
    nodes = [Node(), Node()]
    for rank, node in enumerate(nodes):
        stage(node, OLD, rank)
        stage(node, NEW, rank)
    return nodes


def write(
    nodes: list[Node], tier: str, name: CheckpointName, root: Path, *, attempt: int = 1, only: int | None = None
) -> None:
    """Let writers carry out the orders of both ranks, or of one."""
    workers = []
    for rank, node in enumerate(nodes):
        if only in (None, rank):
            node.order(tier, rank, name, root, world_size=2, attempt=attempt, patience_s=0.0 if only == 0 else 60.0,
                       retention=RETENTION)
            workers.append(node.worker(tier))
    work_off(*workers)
    for worker in workers:
        worker._client.close()


def test_save(disk: Disk, nodes: list[Node]) -> None:
    """Wherever a save by two writers ends, the previous checkpoint or the new one is there, and the next start works."""
    disk.tier.claim(0)
    save(disk.tier, OLD)
    outcome = disk.crash(lambda: write(nodes, "shared", NEW, disk.tier.root))

    assert [] == outcome.problems
    assert {OLD, NEW} == outcome.during
    assert {NEW} == outcome.after
    assert outcome.states > 100


@pytest.mark.parametrize("only", [None, 0], ids=["both orders", "rank 0's order"])
def test_next_writer_takes_over(disk: Disk, nodes: list[Node], only: int | None) -> None:
    """Wherever the writers end, those that take their orders over make the new checkpoint, whole.

    If only rank 0's order is left, they do if the other rank's share was told of; if not, there is no new one.
    """

    def take_over(tier: SharedTier, names: list[CheckpointName]) -> None:
        write(nodes, "shared", NEW, tier.root, only=only)
        after = restored(tier)
        assert after in ([NEW], [NEW, OLD], [OLD])
        assert only == 0 or NEW in after
        assert NEW in after or NEW not in names
        start_again(tier, after)

    disk.tier.claim(0)
    save(disk.tier, OLD)
    outcome = disk.crash(lambda: write(nodes, "shared", NEW, disk.tier.root), again=take_over)

    assert [] == outcome.problems
    assert {OLD, NEW} == outcome.during


def test_failed_order(disk: Disk, nodes: list[Node]) -> None:
    """Wherever a writer ends that gives an order up, the previous checkpoint is there, and the next attempt succeeds."""

    def next_attempt(tier: SharedTier, names: list[CheckpointName]) -> None:
        assert [OLD] == names
        write(nodes, "shared", NEW, tier.root, attempt=2)
        assert [NEW] == restored(tier)

    disk.tier.claim(0)
    save(disk.tier, OLD)
    outcome = disk.crash(lambda: write(nodes, "shared", NEW, disk.tier.root, only=0), again=next_attempt)

    assert [] == outcome.problems
    assert {OLD} == outcome.during


@pytest.mark.parametrize("lie", ["file", "directory"])
def test_missing_flush_is_noticed(disk: Disk, nodes: list[Node], lie: str) -> None:
    """The states are the right ones: if files or directories were not flushed, checkpoints would be lost or broken."""
    disk.tier.claim(0)
    save(disk.tier, OLD)
    outcome = disk.crash(lambda: write(nodes, "shared", NEW, disk.tier.root), lie=lie)

    assert outcome.problems or {NEW} != outcome.after


class LocalDisk(Disk):
    """The same for the parts of a node's disk."""

    def __init__(self, disk: Disk, again: Callable[[LocalTier, list[CheckpointName]], None]) -> None:
        self.base, self._place, self.tier = disk.base, disk._place, disk.tier
        self.local = LocalTier(disk.tier.root)
        self._then = again

    def _ask(self, outcome: Outcome, where: str, tree: Tree) -> CheckpointName | None:
        place, _ = self._look
        self._place.mkdir(mode=0o700)
        try:
            make(tree, self._place)
            tier = LocalTier(self._place / place)
            names = whole(tier)
            self._then(tier, names)
            return names[-1] if names else None
        except (ValueError, OSError, AssertionError, DamagedError) as error:
            outcome.problems.append(f"{where}: {type(error).__name__}: {str(error)[:300]}")
            return None
        finally:
            shutil.rmtree(self._place)


def whole(tier: LocalTier) -> list[CheckpointName]:
    """Checkpoints of which both parts are here, oldest first; every part that is said to be here must be right."""
    found = tier.holdings()
    for name, ranks in found.items():
        for rank, world_size in ranks.items():
            part = tier.open(name, rank)
            data = bytearray(part.shards[0].size_bytes)
            part.read_into(part.shards[0], memoryview(data))
            part.close()
            assert (2, content(name, rank), own(name, rank)) == (world_size, bytes(data), part.own_state)
    return sorted(name for name, ranks in found.items() if len(ranks) == 2)


@pytest.fixture
def local(disk: Disk, nodes: list[Node]) -> Iterator[LocalDisk]:
    """A node's disk with the parts of the previous checkpoint."""

    def again(tier: LocalTier, names: list[CheckpointName]) -> None:
        write(nodes, "local", NEW, tier.root)
        assert whole(tier) in ([NEW], [OLD, NEW])
        assert set(names) <= set(whole(tier))

    both = LocalDisk(disk, again)
    write(nodes, "local", OLD, both.local.root)
    yield both


def test_local_parts(local: LocalDisk, nodes: list[Node]) -> None:
    """Wherever a save to the node's disk ends, every part that is there is right, the previous ones are, and the next
    writer makes the new ones.
    """
    outcome = local.crash(lambda: write(nodes, "local", NEW, local.local.root))

    assert [] == outcome.problems
    assert {OLD, NEW} == outcome.during
    assert {NEW} == outcome.after
    assert outcome.states > 40


@pytest.mark.parametrize("lie", ["file", "directory"])
def test_missing_flush_of_local_parts_is_noticed(local: LocalDisk, nodes: list[Node], lie: str) -> None:
    """The states are the right ones for these, too."""
    outcome = local.crash(lambda: write(nodes, "local", NEW, local.local.root), lie=lie)

    assert outcome.problems or {NEW} != outcome.after


def test_local_prune(local: LocalDisk, nodes: list[Node]) -> None:
    """Wherever the removal of old parts ends, no part is half there, and the newest are untouched."""
    newest = CheckpointName(0, 3)
    write(nodes, "local", NEW, local.local.root)
    for rank, node in enumerate(nodes):
        stage(node, newest, rank)
    write(nodes, "local", newest, local.local.root)
    local._then = lambda tier, names: tier.prune(0)
    outcome = local.crash(lambda: local.local.prune(0))

    assert [] == outcome.problems
    assert {newest} == outcome.during
    assert {newest} == outcome.after
