"""Copies on a node's own disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hpctrain import process
from hpctrain.errors import NotFoundError, StorageError
from hpctrain.train import staging
from hpctrain.train.staging import node_dir, release, remove_abandoned, stage


def silent(what: str) -> None:
    del what


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return node_dir(str(tmp_path / "disk"), "17", "n1")


@pytest.fixture(autouse=True)
def nothing_held() -> object:
    """Directories that a test holds are given up after it."""
    yield
    release()


def test_copies_are_what_the_sources_are(tmp_path: Path, folder: Path) -> None:
    """Files are copied once, in their order, two of one name side by side; a second look copies nothing."""
    (tmp_path / "x").mkdir()
    sources = [tmp_path / "a.txt", tmp_path / "x/a.txt"]
    for number, source in enumerate(sources):
        source.write_bytes(bytes([number]) * 5_000_000)

    first = stage(sources, folder, silent)
    again = stage(sources, folder, silent)

    assert [path.read_bytes() for path in first.paths] == [source.read_bytes() for source in sources]
    assert (first.copied_bytes, again.copied_bytes) == (10_000_000, 0)
    assert first.paths == again.paths
    assert all(path.parent == folder for path in first.paths)


def test_folders_keep_their_structure(tmp_path: Path, folder: Path) -> None:
    """Files below a root are found at the same places below the copy of it."""
    (tmp_path / "rows/training").mkdir(parents=True)
    source = tmp_path / "rows/training/a.arrow"
    source.write_text("x")

    assert stage([source], folder, silent, root=tmp_path).paths == (folder / "rows/training/a.arrow",)


def test_damaged_and_outdated_copies_are_made_again(tmp_path: Path, folder: Path) -> None:
    """A copy that is not what was read, or whose source has changed since, is not used."""
    source = tmp_path / "a.txt"
    source.write_text("one")
    copy = stage([source], folder, silent).paths[0]

    copy.write_text("two")
    assert stage([source], folder, silent).copied_bytes == 3
    assert copy.read_text() == "one"
    source.write_text("three")
    assert stage([source], folder, silent).copied_bytes == 5
    assert copy.read_text() == "three"


def test_a_disk_that_lies_is_noticed(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every copy is read back: one that comes out different is an error that names the node's disk."""
    (tmp_path / "a.txt").write_text("one")
    copy = staging._copy

    def lie(source: Path, target: Path, tell: staging.Tell) -> str:
        digest = copy(source, target, tell)
        target.write_text("0ne")
        return digest

    monkeypatch.setattr(staging, "_copy", lie)

    with pytest.raises(StorageError, match="gives back something else"):
        stage([tmp_path / "a.txt"], folder, silent)


def test_a_small_disk_is_said_before_copying(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data larger than what is free is refused with both numbers."""
    (tmp_path / "a.bin").write_bytes(b"x" * 5 * 2**20)
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))

    with pytest.raises(StorageError, match=r"the data takes 5(\.0)? MiB, and this node's disk has 3(\.0)? MiB") as caught:
        stage([tmp_path / "a.bin"], folder, silent)
    assert "data.copy_to" in caught.value.advice
    with pytest.raises(NotFoundError, match="cannot be read"):
        stage([tmp_path / "missing"], folder, silent)


HOLDER = "import sys, time; from pathlib import Path; from hpctrain.train.staging import stage\n" \
         "stage([Path(sys.argv[1])], Path(sys.argv[2]), lambda what: None); print('held', flush=True); time.sleep(60)\n"


def test_only_abandoned_copies_are_removed(tmp_path: Path, folder: Path) -> None:
    """A directory that a living process holds stays; when that is gone, the next one to look removes it."""
    (tmp_path / "a.txt").write_text("one")
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "a.txt"), str(folder)]
    with process.start(words, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == b"held"
        assert remove_abandoned(folder.parent) == []
        holder.kill()
        holder.wait()

    assert remove_abandoned(folder.parent) == [folder]
    assert not folder.exists()


def test_the_last_rank_removes_the_copies(tmp_path: Path, folder: Path) -> None:
    """At the end of a run nothing is left on the node's disk."""
    (tmp_path / "a.txt").write_text("one")
    stage([tmp_path / "a.txt"], folder, silent)

    release()

    assert not folder.exists()
    assert os.listdir(folder.parent) == []
