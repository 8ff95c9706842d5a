"""What every tier of whole checkpoints must do, held against the shared one."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

pytest.importorskip("xxhash")

from hpctrain.checkpoint.names import CheckpointName, rank_file, tensor_file
from hpctrain.checkpoint.open_store import open_store
from hpctrain.checkpoint.shards import Shard
from hpctrain.checkpoint.store import Store
from hpctrain.checkpoint.tier_shared import SharedTier
from hpctrain.errors import StorageError
from tests.unit.checkpoint.test_crash_points import NEW, OLD, restored, save

SHARD = Shard.whole("model.row", "uint8", (4,))


@pytest.fixture
def tier(tmp_path: Path) -> SharedTier:
    """An empty tier that is claimed."""
    tier = SharedTier(tmp_path / "checkpoints")
    tier.claim(0)
    return tier


def test_shared_tier_is_a_store(tmp_path: Path) -> None:
    """A path is opened as a shared tier, which has everything that a store must have (mypy compares the types)."""
    store: Store = SharedTier(tmp_path)
    opened = open_store(str(tmp_path))

    assert isinstance(opened, SharedTier)
    assert ("shared", str(tmp_path)) == (store.tier, store.where) == (opened.tier, opened.where)


def test_prepare_removes_nothing(tier: SharedTier) -> None:
    """A writer that prepares late does not remove what another one has written."""
    tier.prepare(NEW)
    tier.write_file(NEW, rank_file(1), b"{}")
    tier.prepare(NEW)

    assert b"{}" == tier.read_file(NEW, rank_file(1))


def test_prepare_refuses_what_exists(tier: SharedTier) -> None:
    """A complete checkpoint is not written again."""
    save(tier, NEW)
    with pytest.raises(StorageError, match="there already"):
        tier.prepare(NEW)


def test_share_replaces_an_earlier_try(tier: SharedTier) -> None:
    """A share is written in place of what an earlier try has left, drafts of killed writers included; all is private."""
    tier.prepare(NEW)
    folder = tier.folder(NEW)
    for remains in (tensor_file(0), f".{tensor_file(0)}.0a1b", rank_file(0), f".{rank_file(0)}.xyz", f".{rank_file(1)}.xyz"):
        (folder / remains).write_bytes(b"remains")
    share = tier.write_share(NEW, 0, [(SHARD, b"abcd")], "{}")

    assert [tensor_file(0), rank_file(0)] == [entry.name for entry in share.files]
    assert {f".{rank_file(1)}.xyz", tensor_file(0), rank_file(0)} == {path.name for path in folder.iterdir()}
    assert {0o600} == {stat.S_IMODE((folder / entry.name).stat().st_mode) for entry in share.files}
    assert b"{}" == tier.read_file(NEW, rank_file(0))


def test_files_come_and_go(tier: SharedTier) -> None:
    """A file that is not there reads as None, and removing it is no error; nor is that of a checkpoint that is not there."""
    tier.prepare(NEW)
    tier.write_file(NEW, "a.json", b"1")
    tier.write_file(NEW, "a.json", b"2")
    assert b"2" == tier.read_file(NEW, "a.json")
    tier.remove_file(NEW, "a.json")
    tier.remove_file(NEW, "a.json")
    tier.remove_file(CheckpointName(0, 77), "a.json")

    assert tier.read_file(NEW, "a.json") is None
    assert tier.read_file(CheckpointName(0, 77), "a.json") is None


def test_abandoned_checkpoint_exists_no_more(tier: SharedTier) -> None:
    """What was rewound is not restored again; abandoning it twice is no error, and the older one stays."""
    save(tier, OLD)
    save(tier, NEW)
    for _ in range(2):
        tier.abandon(NEW)
    tier.abandon(CheckpointName(0, 77))

    assert [OLD] == restored(tier)
    assert [NEW] == tier.checkpoints(committed=False)


def test_reader_gives_verified_bytes(tier: SharedTier) -> None:
    """The raw bytes of a stored shard are read back by its reader."""
    tier.prepare(NEW)
    share = tier.write_share(NEW, 0, [(SHARD, b"abcd")], "{}")
    target = bytearray(4)
    reader = tier.reader(NEW)
    reader.read_into(share.shards[0], memoryview(target))
    reader.close()

    assert b"abcd" == bytes(target)
