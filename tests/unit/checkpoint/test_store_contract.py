"""What every tier of whole checkpoints must do, held against all of them: a directory, objects in memory, files, S3."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("xxhash")

from hpctrain.checkpoint.commit import Committer, FencedError, claim
from hpctrain.checkpoint.names import COMMIT, METADATA, CheckpointName, claim_file, rank_file, tensor_file
from hpctrain.checkpoint.retention import Retention
from hpctrain.checkpoint.shard_reader import DamagedError
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.share import Share
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.tier_object import ObjectTier
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.checkpoint.write import merge
from hpctrain.errors import StorageError
from tests.s3_server import PART_BYTES

RANKS = 2
Make = Callable[[], Store]


@pytest.fixture(params=["shared", "memory", "file", "s3"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes stores of one and the same place, as each process would for itself."""
    if request.param == "shared":
        return lambda: SharedTier(tmp_path / "run" / "checkpoints")
    pytest.importorskip("fsspec")
    if request.param == "s3":
        url = f"s3://{request.getfixturevalue('s3_environment')}/some/run"
    else:
        url = f"memory://{uuid.uuid4().hex}/run" if request.param == "memory" else f"file://{tmp_path}/run"
    return lambda: ObjectTier(url, part_bytes=PART_BYTES)


@pytest.fixture
def store(make: Make) -> Store:
    """An empty one that incarnation 0 has claimed."""
    store = make()
    store.claim(0)
    return store


def content(name: CheckpointName, rank: int) -> bytes:
    """A rank's row of the one tensor: several parts of an upload, and the end of one."""
    return (f"rank {rank} in {name}, ".encode() * 6_000)[: PART_BYTES + 1000 * name.step]


def write(store: Store, name: CheckpointName, ranks: int = RANKS) -> list[Share]:
    """What the writers of all ranks do."""
    size = len(content(name, 0))
    return [
        store.write_share(
            name, rank, [(Shard("model.rows", "uint8", (ranks, size), (rank, 0), (1, size)), content(name, rank))],
            json.dumps({"rank": rank, "step": name.step}))
        for rank in range(ranks)
    ]


def save(store: Store, name: CheckpointName) -> None:
    """A whole save."""
    store.prepare(name)
    index, manifest = merge(name, write(store, name))
    manifest = replace(manifest, files=(*manifest.files, store.write_file(name, METADATA, index)))
    store.commit(name, manifest, time=1.5, reason="test", world={"world_size": RANKS})


def check(store: Store, name: CheckpointName) -> None:
    """It can be restored, bit for bit."""
    commit, manifest = store.open(name)
    reader = store.reader(name)
    for stored in manifest.shards:
        target = bytearray(stored.size_bytes)
        reader.read_into(stored, memoryview(target))
        assert content(name, stored.shard.offsets[0]) == bytes(target)
    reader.close()
    assert RANKS == len(manifest.shards)
    assert [{"rank": rank, "step": name.step} for rank in range(RANKS)] == [
        json.loads(store.read(name, manifest, rank_file(rank))) for rank in range(RANKS)]
    assert ("test", 1.5, {"world_size": RANKS}) == (commit.reason, commit.time, commit.world)


ONE, TWO = CheckpointName(0, 1), CheckpointName(0, 2)


def test_what_was_saved_is_restored(make: Make, store: Store) -> None:
    """A checkpoint is seen, and read bit for bit, by another process at once."""
    save(store, ONE)
    other = make()

    assert [ONE] == other.checkpoints(committed=True)
    assert [] == other.checkpoints(committed=False)
    assert {str(ONE), claim_file(0)} == set(other.entries())
    check(other, ONE)


def test_nothing_is_there_at_first(make: Make) -> None:
    """A place that nobody has used yet is empty, not an error."""
    assert ([], []) == (make().entries(), make().checkpoints(committed=True))


def test_without_a_commit_record_it_does_not_exist(make: Make, store: Store) -> None:
    """Everything but the record makes a folder that is not complete, and cannot be opened."""
    store.prepare(ONE)
    write(store, ONE)

    assert ([], [ONE]) == (make().checkpoints(committed=True), make().checkpoints(committed=False))
    with pytest.raises(FileNotFoundError):
        store.open(ONE)


def test_a_name_is_committed_once(store: Store) -> None:
    """What exists is neither prepared nor committed again, and stays as it is."""
    save(store, ONE)
    _, manifest = store.open(ONE)
    with pytest.raises(StorageError, match="there already"):
        store.prepare(ONE)
    check(store, ONE)

    assert manifest == store.open(ONE)[1]


def test_prepare_removes_nothing(store: Store) -> None:
    """A writer that prepares late does not remove what another one has written."""
    store.prepare(ONE)
    shares = write(store, ONE)
    store.prepare(ONE)
    index, manifest = merge(ONE, shares)
    manifest = replace(manifest, files=(*manifest.files, store.write_file(ONE, METADATA, index)))
    store.commit(ONE, manifest, time=1.5, reason="test", world={"world_size": RANKS})

    check(store, ONE)


def test_a_share_is_written_again(store: Store) -> None:
    """A second try takes the place of the first, also where that one had another size."""
    store.prepare(ONE)
    store.write_share(ONE, 0, [(Shard.whole("model.rows", "uint8", (5,)), b"other")], "{}")

    save(store, ONE)
    check(store, ONE)


def test_small_files(store: Store) -> None:
    """They are written, replaced, read and removed; what is not there is None, and is removed without an error."""
    store.prepare(ONE)
    store.write_file(ONE, "share-0-1.json", b"first")
    entry = store.write_file(ONE, "share-0-1.json", b"second")
    read = store.read_file(ONE, "share-0-1.json")
    store.remove_file(ONE, "share-0-1.json")
    store.remove_file(ONE, "share-0-1.json")

    assert (b"second", 6) == (read, entry.size_bytes)
    assert None is store.read_file(ONE, "share-0-1.json")
    assert None is store.read_file(TWO, "share-0-1.json")


def test_discard_removes_all(make: Make, store: Store) -> None:
    """A checkpoint that is discarded leaves nothing, others stay; one that is not there is no error."""
    save(store, ONE)
    save(store, TWO)
    store.discard(ONE)
    store.discard(ONE)

    assert {str(TWO), claim_file(0)} == set(make().entries())
    check(store, TWO)


def test_abandoned_is_written_anew(store: Store) -> None:
    """A checkpoint that is abandoned does not exist, and the same name can be saved again."""
    save(store, ONE)
    store.abandon(ONE)
    gone = store.checkpoints(committed=True)
    save(store, ONE)

    assert [] == gone
    check(store, ONE)


@pytest.mark.parametrize("file", [COMMIT, "manifest.json"])
def test_damaged_records_are_refused(store: Store, file: str) -> None:
    """A flipped bit in a record is found when a checkpoint is opened."""
    save(store, ONE)
    data = bytearray(store.read_file(ONE, file) or b"")
    data[len(data) // 2] ^= 1
    store.write_file(ONE, file, bytes(data))

    with pytest.raises(ValueError, match=r"damaged|not the one|JSON|lacks|version|says"):
        store.open(ONE)


def test_damaged_tensors_are_refused(store: Store) -> None:
    """Bytes that are not those that were committed are not handed out; a file that is cut is seen at once."""
    save(store, ONE)
    _, manifest = store.open(ONE)
    data = bytearray(store.read_file(ONE, tensor_file(0)) or b"")
    data[5000] ^= 1
    store.write_file(ONE, tensor_file(0), bytes(data))
    stored = next(item for item in manifest.shards if item.file == tensor_file(0))
    with pytest.raises(DamagedError, match="xxh3"):
        store.reader(ONE).read_into(stored, memoryview(bytearray(stored.size_bytes)))
    store.write_file(ONE, tensor_file(0), bytes(data[:9000]))

    with pytest.raises(ValueError, match="9000 bytes instead of"):
        store.open(ONE)


def test_many_threads_read_at_once(store: Store) -> None:
    """One reader serves several threads."""
    save(store, ONE)
    _, manifest = store.open(ONE)
    reader, wrong = store.reader(ONE), []

    def read(rank: int) -> None:
        stored = manifest.shards[rank]
        target = bytearray(stored.size_bytes)
        reader.read_into(stored, memoryview(target))
        if content(ONE, stored.shard.offsets[0]) != bytes(target):
            wrong.append(rank)

    threads = [threading.Thread(target=read, args=(number % RANKS,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    reader.close()

    assert [] == wrong


# ---------------------------------------------------------------- the protocol on top of it


def commit_with(committer: Committer, store: Store, name: CheckpointName) -> str:
    """A save as rank 0 makes it; why there is none."""
    error = committer.prepare(name)
    shares = write(store, name)
    return error or committer.commit(name, [("", [share]) for share in shares], time=1.5, reason="test",
                                     world={"world_size": RANKS})[0]


def test_an_old_writer_is_fenced(make: Make) -> None:
    """Once a newer incarnation has claimed the place, an older one neither commits nor claims, and removes nothing."""
    old = make()
    mine = claim(old, None)
    committer = Committer(old, mine)
    first = commit_with(committer, old, CheckpointName(mine, 1))
    newer = make()
    theirs = claim(newer, None)
    with pytest.raises(FencedError):
        commit_with(committer, old, CheckpointName(mine, 2))
    with pytest.raises(FencedError):
        claim(old, mine)
    second = commit_with(Committer(newer, theirs), newer, CheckpointName(theirs, 1))

    assert ("", "") == (first, second)
    assert [CheckpointName(mine, 1), CheckpointName(theirs, 1)] == newer.checkpoints(committed=True)
    assert claim_file(mine) not in newer.entries()


def test_old_ones_are_pruned(make: Make, store: Store) -> None:
    """The committer keeps what the retention says."""
    committer = Committer(store, 0)
    for step in (1, 2, 3):
        assert "" == commit_with(committer, store, CheckpointName(0, step))
    committer.prune(Retention(keep_last=2))

    assert [TWO, CheckpointName(0, 3)] == make().checkpoints(committed=True)
    check(store, TWO)


def test_a_new_start_removes_the_remains_of_the_old(make: Make, store: Store) -> None:
    """What was being written when its writer died is removed by the next claim; what is complete stays."""
    save(store, ONE)
    store.prepare(TWO)
    write(store, TWO)
    claim(make(), 1)

    assert {str(ONE), claim_file(1)} == set(make().entries())
    check(store, ONE)
