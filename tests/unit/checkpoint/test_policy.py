"""Names, schedule, retention, trust and manifest: what is decided without touching a disk."""

from __future__ import annotations

import math
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpctrain.checkpoint import codec, trust
from hpctrain.checkpoint.manifest import CommitRecord, FileEntry, Manifest, share
from hpctrain.checkpoint.names import CheckpointName, newest_incarnation, parse_name
from hpctrain.checkpoint.retention import Retention

NAMES = st.builds(CheckpointName, incarnation=st.integers(0, 2000), step=st.integers(0, 10**9))


# ---------------------------------------------------------------- names


@given(NAMES)
def test_name_reads_back(name: CheckpointName) -> None:
    """A directory name says step and incarnation, without loss."""
    assert name == parse_name(str(name))


@pytest.mark.parametrize(
    "text", ["", "step-1.i000", "step-00000001", "step-00000001.i000.partial", "x-step-00000001.i000", "writer.i001"]
)
def test_other_names_are_not_checkpoints(text: str) -> None:
    """Nothing else in the directory is taken for a checkpoint."""
    assert parse_name(text) is None


def test_later_incarnation_is_newer() -> None:
    """What a later incarnation wrote is newer even at a lower step: it may have gone back on purpose."""
    assert CheckpointName(1, 10) > CheckpointName(0, 90)
    assert CheckpointName(1, 10) < CheckpointName(1, 11)


def test_newest_incarnation_counts_claims_and_checkpoints() -> None:
    """A claim alone fences, and so does a checkpoint whose claim is gone."""
    assert 4 == newest_incarnation(["writer.i004", "step-00000001.i002", "junk"])
    assert 5 == newest_incarnation(["writer.i004", "step-00000001.i005"])
    assert -1 == newest_incarnation(["junk"])


# ---------------------------------------------------------------- retention


@given(st.sets(NAMES, max_size=30), st.integers(1, 5), st.none() | st.integers(1, 50))
def test_retention_never_takes_what_must_stay(complete: set[CheckpointName], keep_last: int, every: int | None) -> None:
    """The newest keep_last and all milestones stay; so the newest is never deleted, and an only one never."""
    gone = Retention(keep_last, every).superseded(complete)
    stay = complete - set(gone)

    assert set(gone) <= complete
    assert set(sorted(complete)[-keep_last:]) <= stay
    assert all(name in stay for name in complete if every and name.step % every == 0)
    assert gone == sorted(gone)


def test_retention_of_nothing_is_refused() -> None:
    """keep_last=0 would delete the only checkpoint."""
    with pytest.raises(ValueError, match="at least 1"):
        Retention(keep_last=0)


# ---------------------------------------------------------------- trust


@pytest.mark.parametrize(("owner", "mode", "words"), [
    (1000, stat.S_IFREG | 0o600, ""), (0, stat.S_IFREG | 0o644, ""), (1000, stat.S_IFDIR | 0o700, ""),
    (1001, stat.S_IFREG | 0o600, "belongs to user id 1001"), (1000, stat.S_IFREG | 0o620, "written by others"),
    (1000, stat.S_IFDIR | 0o1777, "written by others"), (1000, stat.S_IFLNK | 0o777, "symbolic link"),
])
def test_only_files_of_mine_that_nobody_else_writes(owner: int, mode: int, words: str) -> None:
    """A pickle is opened only if this user or root owns it and no mode bit lets anybody else write it."""
    objection = trust.objection("f", owner=owner, mode=mode, user=1000)

    assert (words in objection) if words else objection == ""


# ---------------------------------------------------------------- manifest

MANIFEST = Manifest(4, 1, 2, (FileEntry("a", 3, "00"), FileEntry("b", 5, "11")))


def test_manifest_reads_back() -> None:
    """Manifest and commit record survive the journey through JSON."""
    commit = CommitRecord(4, 1, 12.5, "test", FileEntry("manifest.json", 9, "22"), 8, {"world_size": 2})
    import json

    assert MANIFEST == Manifest.from_bytes(MANIFEST.to_bytes())
    assert commit == CommitRecord.from_bytes(json.dumps(commit.to_json()).encode())


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"version": 99}', b'{"version": 1}', b'{"version": 1, "files": 3}'])
def test_what_is_no_manifest_is_refused(text: bytes) -> None:
    """Damaged or foreign text is a ValueError, never another exception."""
    with pytest.raises(ValueError):
        Manifest.from_bytes(text)
    with pytest.raises(ValueError):
        CommitRecord.from_bytes(text)


def test_manifest_cannot_point_outside() -> None:
    """A file name with a path in it is refused: a manifest is data from a disk."""
    with pytest.raises(ValueError, match="no file of the checkpoint"):
        Manifest.from_bytes(MANIFEST.to_bytes().replace(b'"a"', b'"../a"'))


@given(st.lists(st.integers(0, 1000), max_size=40), st.integers(1, 9))
def test_every_file_is_verified_by_exactly_one_rank(sizes: list[int], ranks: int) -> None:
    """The shares of all ranks together are all files."""
    files = tuple(FileEntry(f"f{index}", size, "") for index, size in enumerate(sizes))
    shares = [entry for rank in range(ranks) for entry in share(files, rank, ranks)]

    assert sorted(files, key=str) == sorted(shares, key=str)


# ---------------------------------------------------------------- codec

NUMBERS = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
SCALARS = st.none() | NUMBERS | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=15,
)


@given(VALUES)
def test_state_survives_json(value: object) -> None:
    """Numbers, text, bytes and nested containers come back equal and of the same types, also keys that look like tags."""
    import json

    back = codec.decode(json.loads(json.dumps(codec.encode(value))))

    assert value == back
    assert repr(value) == repr(back)


def test_nan_survives_json() -> None:
    """A NaN in the state is still one afterwards."""
    import json

    assert math.isnan(codec.decode(json.loads(json.dumps(codec.encode(math.nan)))))


def test_object_that_needs_pickle_is_refused_by_name() -> None:
    """What JSON cannot hold is refused when it is saved, and the message says where it is."""
    with pytest.raises(TypeError, match=r"a\.b\[0\] is a object"):
        codec.encode({"a": {"b": [object()]}})
