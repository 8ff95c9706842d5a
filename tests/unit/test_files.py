"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from hpctrain import files
from hpctrain.errors import StorageError


def test_atomic_write_replaces_and_is_private(tmp_path: Path) -> None:
    """A file is replaced in one step, readable by its owner only, and leaves no temporary file behind."""
    target = tmp_path / "a.json"
    target.write_text("old")
    files.write_json_atomic(target, {"x": 1})

    assert '{\n  "x": 1\n}\n' == target.read_text()
    assert 0o600 == stat.S_IMODE(target.stat().st_mode)
    assert ["a.json"] == os.listdir(tmp_path)


def test_failed_write_keeps_the_old_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fills up in mid-write leaves the old file whole and gives a StorageError with advice."""
    target = tmp_path / "a.txt"
    target.write_text("old")

    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught:
        files.write_atomic(target, "new")

    assert "full" in caught.value.advice
    assert ("old", ["a.txt"]) == (target.read_text(), os.listdir(tmp_path))


def test_a_really_full_device_is_a_storage_error() -> None:
    """Appending to a device without space is our error, with what to do, not an OSError."""
    with pytest.raises(StorageError) as caught:
        files.append_jsonl(Path("/dev/full"), {"a": 1})

    assert "free some space" in caught.value.advice


def test_private_dir_is_0700_even_with_a_wide_umask(tmp_path: Path) -> None:
    """A private directory can be entered by its owner only, whatever the umask."""
    old = os.umask(0)
    try:
        made = files.make_private_dir(tmp_path / "a" / "b")
    finally:
        os.umask(old)

    assert 0o700 == stat.S_IMODE(made.stat().st_mode)


def test_existing_dir_can_be_refused(tmp_path: Path) -> None:
    """A directory that must be new raises FileExistsError when it is not."""
    with pytest.raises(FileExistsError):
        files.make_private_dir(tmp_path, exist_ok=False)


def test_parent_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    """A path through a plain file gives one clear StorageError."""
    (tmp_path / "f").write_text("")
    with pytest.raises(StorageError):
        files.make_private_dir(tmp_path / "f" / "d")


def test_torn_line_cannot_swallow_the_next_one(tmp_path: Path) -> None:
    """A line that a killed writer left without its end does not damage the next record."""
    path = tmp_path / "e.jsonl"
    files.append_jsonl(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "half')
    files.append_jsonl(path, {"n": 3})

    assert [{"n": 1}, {"n": 3}] == list(files.read_jsonl(path))


def test_lines_of_concurrent_writers_stay_whole(tmp_path: Path) -> None:
    """Records that several threads append at the same time never mix."""
    path = tmp_path / "e.jsonl"

    def write(writer: int) -> None:
        for i in range(50):
            files.append_jsonl(path, {"w": writer, "i": i})

    work = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()

    assert 200 == len(list(files.read_jsonl(path)))


def test_missing_or_foreign_lines_are_skipped(tmp_path: Path) -> None:
    """A missing file is empty; lines that are not JSON objects are passed over."""
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'\xff\xfe\n[1]\n"x"\n{"ok":1}\n')

    assert [] == list(files.read_jsonl(tmp_path / "none"))
    assert [{"ok": 1}] == list(files.read_jsonl(path))
