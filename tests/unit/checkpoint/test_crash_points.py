"""The commit protocol of the shared tier, ended at every file operation in every way a crash can end it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

pytest.importorskip("xxhash")

from hpctrain.checkpoint.catalogue import verify
from hpctrain.checkpoint.copying import copy_checkpoint, plan_copy
from hpctrain.checkpoint.names import COMMIT, MANIFEST, METADATA, CheckpointName, rank_file, tensor_file
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.checkpoint.write import check_shares, merge, write_share
from hpctrain.files import write_atomic
from tests.unit.checkpoint.crash_points import Recorder, Tree, crash_states, make, states

OLD, NEW = CheckpointName(0, 1), CheckpointName(0, 2)
PLACE = "run/checkpoints"


def content(name: CheckpointName, rank: int) -> bytes:
    """A rank's row of the one tensor; longer than what is in the other checkpoint."""
    return f"state of rank {rank} in {name} ".encode() * (5 * name.step)


def own(name: CheckpointName, rank: int) -> str:
    """The rest of a rank's state."""
    return json.dumps({"data": {"consumed": 10 * name.step}, "rank": rank})


def save(tier: SharedTier, name: CheckpointName, ranks: int = 2) -> None:
    """The calls that the manager makes, without torch: all of the writing is done by the code that trainings use."""
    tier.prepare(name)
    folder, size = tier.folder(name), len(content(name, 0))
    shards = [Shard("model.rows", "uint8", (ranks, size), (rank, 0), (1, size)) for rank in range(ranks)]
    shares = [write_share(folder, rank, [(shards[rank], content(name, rank))], own(name, rank)) for rank in range(ranks)]
    check_shares(shares)
    index, manifest = merge(name, shares)
    manifest = replace(manifest, files=(*manifest.files, tier.write_file(name, METADATA, index)))
    tier.commit(name, manifest, time=0.0, reason="test", world={})


def restored(tier: SharedTier) -> list[CheckpointName]:
    """All checkpoints that are said to exist, newest first; each must be whole and hold what was saved in it."""
    names = tier.checkpoints(committed=True)[::-1]
    for name in names:
        _, manifest = tier.open(name)
        assert "" == tier.damage(name, manifest.files)
        for stored in manifest.shards:
            raw = (tier.folder(name) / stored.file).read_bytes()
            rank = stored.shard.offsets[0]
            assert content(name, rank) == raw[stored.offset_bytes:stored.offset_bytes + stored.size_bytes]
            assert own(name, rank).encode() == tier.read(name, manifest, rank_file(rank))
        assert len(manifest.shards) == manifest.world_size
    return names


@dataclass
class Outcome:
    """What restores take.

    Attributes:
        states: how many different crash states were asked.
        during: newest checkpoint of each.
        after: the same in those states that are possible once everything has returned.
        problems: states in which something was said to exist that was not whole, or the next start could not go on.
    """

    states: int = 0
    during: set[CheckpointName | None] = field(default_factory=set)
    after: set[CheckpointName | None] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


class Disk:
    """A directory whose every crash state is asked for the checkpoint that a restore would take."""

    def __init__(self, tmp_path: Path) -> None:
        self.base, self._place = tmp_path / "disk", tmp_path / "crashed"
        self.base.mkdir(mode=0o700)
        self.tier = SharedTier(self.base / PLACE)

    def crash(
        self, work: Callable[[], object], *, lie: str = "", place: str = PLACE,
        again: Callable[[SharedTier, list[CheckpointName]], object] | None = None,
    ) -> Outcome:
        """Do something, and crash at each of its operations; look at ``place``, then do what comes next: ``again``."""
        self._look = (place, again or start_again)
        recorder, outcome = Recorder(self.base, frozenset(lie.split())), Outcome()
        with recorder.recording():
            work()
        for where, what, tree in crash_states(recorder):
            if lie and outcome.problems:
                break  # one is enough to see that the lie is noticed
            outcome.states += 1
            outcome.during.add(self._ask(outcome, f"{where} ({what})", tree))
        for what, tree in states(recorder.moments[-1]):
            outcome.after.add(self._ask(outcome, f"at the end ({what})", tree))
        return outcome

    def _ask(self, outcome: Outcome, where: str, tree: Tree) -> CheckpointName | None:
        place, again = self._look
        self._place.mkdir(mode=0o700)
        try:
            make(tree, self._place)
            tier = SharedTier(self._place / place)
            names = restored(tier)
            again(tier, names)
            return names[0] if names else None
        except (ValueError, OSError, AssertionError) as error:
            outcome.problems.append(f"{where}: {type(error).__name__}: {str(error)[:300]}")
            return None
        finally:
            shutil.rmtree(self._place)


def start_again(tier: SharedTier, names: list[CheckpointName]) -> None:
    """The next start tidies up, keeps what there is, and can save again, also the step that was cut off."""
    tier.claim(0)
    for name in tier.checkpoints(committed=False):
        tier.discard(name)
    assert names == restored(tier)
    if NEW not in names:
        save(tier, NEW)
        assert [NEW, *names] == restored(tier)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """An empty disk; in memory where there is such a file system, because thousands of states flush to it."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield Disk(tmp_path)
        return
    with tempfile.TemporaryDirectory(prefix="hpctrain-crash-", dir=memory) as place:
        yield Disk(Path(place))


@pytest.fixture
def used(disk: Disk) -> Disk:
    """A disk with one complete checkpoint."""
    disk.tier.claim(0)
    save(disk.tier, OLD)
    return disk


def test_first_save(disk: Disk) -> None:
    """Wherever the very first save ends, there is no checkpoint or a whole one; once it has returned, there is one."""
    outcome = disk.crash(lambda: (disk.tier.claim(0), save(disk.tier, NEW)))

    assert [] == outcome.problems
    assert {None, NEW} == outcome.during
    assert {NEW} == outcome.after
    assert outcome.states > 50


def test_second_save(used: Disk) -> None:
    """Wherever a save ends, the previous checkpoint or the new one is restored, whole; after it, the new one."""
    outcome = used.crash(lambda: save(used.tier, NEW))

    assert [] == outcome.problems
    assert {OLD, NEW} == outcome.during
    assert {NEW} == outcome.after
    assert outcome.states > 50


def test_save_over_remains(used: Disk) -> None:
    """The same where an earlier try of this step was cut off and its files still lie there."""
    used.tier.prepare(NEW)
    write_atomic(used.tier.folder(NEW) / rank_file(1), b"remains")
    outcome = used.crash(lambda: save(used.tier, NEW))

    assert [] == outcome.problems
    assert {OLD, NEW} == outcome.during
    assert {NEW} == outcome.after


def test_prune(used: Disk) -> None:
    """Wherever a prune ends, the newest is restored, and what is left of the older one is whole or does not exist."""
    save(used.tier, NEW)
    outcome = used.crash(lambda: used.tier.discard(OLD))

    assert [] == outcome.problems
    assert {NEW} == outcome.during
    assert {NEW} == outcome.after


def test_prune_after_a_killed_prune(used: Disk) -> None:
    """A removal that was killed before it was flushed, and is finished by the next start, leaves no half checkpoint."""
    save(used.tier, NEW)

    def work() -> None:
        (used.tier.folder(OLD) / COMMIT).unlink()  # as far as the killed one came
        used.tier.discard(OLD)

    assert [] == used.crash(work).problems


def test_save_and_prune(used: Disk) -> None:
    """A save followed at once by the removal of the older one never leaves nothing."""
    outcome = used.crash(lambda: (save(used.tier, NEW), used.tier.discard(OLD)))

    assert [] == outcome.problems
    assert {OLD, NEW} == outcome.during
    assert {NEW} == outcome.after


def copy(source: SharedTier, target: SharedTier) -> None:
    """The calls that the command makes."""
    copy_checkpoint(source, plan_copy(source, OLD, target), target)


def test_copy(used: Disk) -> None:
    """Wherever a copy ends, it does not exist or is whole, and the same command finishes it; after it, it exists."""

    def finish(target: SharedTier, names: list[CheckpointName]) -> None:
        copy(SharedTier(target.root.parent / PLACE), target)
        assert [OLD] == restored(target)
        assert files == {path.name for path in target.folder(OLD).iterdir()}

    target = SharedTier(used.base / "copy")
    files = {path.name for path in used.tier.folder(OLD).iterdir()}
    outcome = used.crash(lambda: copy(used.tier, target), place="copy", again=finish)

    assert [] == outcome.problems
    assert {None, OLD} == outcome.during
    assert {OLD} == outcome.after
    assert outcome.states > 50


def test_copy_without_flushing_is_noticed(used: Disk) -> None:
    """The states are the right ones for a copy, too."""
    target = SharedTier(used.base / "copy")
    outcome = used.crash(lambda: copy(used.tier, target), place="copy", lie="file", again=lambda _tier, _names: None)

    assert outcome.problems


@pytest.mark.parametrize("file", [tensor_file(0), rank_file(0), METADATA, MANIFEST, COMMIT])
def test_every_bit_counts(used: Disk, file: str) -> None:
    """A flipped bit in any byte of any file is found before a restore takes the checkpoint."""
    path = used.tier.folder(OLD) / file
    original = path.read_bytes()
    unnoticed = []
    for index in range(len(original)):
        path.write_bytes(original[:index] + bytes([original[index] ^ (1 << index % 8)]) + original[index + 1:])
        if not verify(used.tier, OLD).problems:
            unnoticed.append(index)
    path.write_bytes(original)

    assert [] == unnoticed
    assert () == verify(used.tier, OLD).problems


def test_large_files_are_read_whole(used: Disk) -> None:
    """The same for a file of many pieces, at its ends, at the ends of the pieces and in between."""
    used.tier.prepare(NEW)
    folder, size = used.tier.folder(NEW), 9 * 2**20 + 17
    shard = Shard.whole("model.large", "uint8", (size,))
    _, manifest = merge(NEW, [write_share(folder, 0, [(shard, bytes(size))], "{}")])
    used.tier.commit(NEW, manifest, time=0.0, reason="test", world={})
    path = folder / tensor_file(0)
    end = path.stat().st_size
    places = {0, end - 1, 4 * 2**20 - 1, 4 * 2**20, 8 * 2**20, *range(2049, end, end // 40)}
    unnoticed = [place for place in sorted(places) if not spoilt(used.tier, path, place)]

    assert [] == unnoticed
    assert () == verify(used.tier, NEW).problems


def spoilt(tier: SharedTier, path: Path, place: int) -> tuple[str, ...]:
    """What is found while one bit is another."""
    with path.open("r+b", buffering=0) as file:
        original = os.pread(file.fileno(), 1, place)
        os.pwrite(file.fileno(), bytes([original[0] ^ 1 << place % 8]), place)
        try:
            return verify(tier, NEW).problems
        finally:
            os.pwrite(file.fileno(), original, place)


@pytest.mark.parametrize("lie", ["file", "directory"])
def test_missing_flush_is_noticed(used: Disk, lie: str) -> None:
    """The states are the right ones: if files or directories were not flushed, checkpoints would be lost or broken."""
    outcome = used.crash(lambda: (save(used.tier, NEW), used.tier.discard(OLD)), lie=lie)

    assert outcome.problems or {NEW} != outcome.after


def test_wrong_order_is_noticed(used: Disk) -> None:
    """The states are the right ones: a commit record before the files it speaks of is found out."""

    def work() -> None:
        save(used.tier, NEW)
        folder = used.tier.folder(NEW)
        late = (folder / rank_file(0)).read_bytes()
        (folder / rank_file(0)).unlink()
        write_atomic(folder / rank_file(0), late)

    assert used.crash(work).problems
