"""A file is read once for its hash, and again only when it has changed."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from hpctrain import process
from hpctrain.hashing import HashCache, Hashed, blob_hash, hash_file, hash_files, together


def test_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    """A file longer than one piece has the hash that everybody computes, and every byte is told of."""
    data, told = os.urandom(9 * 2**20 + 17), []
    (tmp_path / "weights").write_bytes(data)

    assert hash_file(tmp_path / "weights", told.append) == hashlib.sha256(data).hexdigest()
    assert sum(told) == len(data)


def test_known_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, also under another directory's name, the hash comes from the cache."""
    cache, model = HashCache(tmp_path / ".hashes"), tmp_path / "partial"
    model.mkdir()
    (model / "a.safetensors").write_bytes(b"weights")
    first = cache.hash(model / "a.safetensors")
    model.rename(tmp_path / "model")
    monkeypatch.setattr("hpctrain.hashing.hash_file", lambda *_: pytest.fail("read again"))

    assert cache.hash(tmp_path / "model" / "a.safetensors") == first
    assert cache.known(tmp_path / "model" / "a.safetensors") == first


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    """Other content of the same length and modification time is noticed."""
    cache, file = HashCache(tmp_path / ".hashes"), tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    first, times = cache.hash(file), file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))

    assert cache.known(file) == ""
    assert cache.hash(file) == hashlib.sha256(b"two").hexdigest() != first


def test_broken_cache_costs_only_time(tmp_path: Path) -> None:
    """An entry that is no hash is not believed, and a cache that cannot be made stops nothing."""
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    cache = HashCache(tmp_path / ".hashes")
    right = cache.hash(file)
    (entry,) = (tmp_path / ".hashes").iterdir()
    for text in ("", "[]", '{"sha256": "../x"}', '{"sha256": 7}'):
        entry.write_text(text)
        assert cache.hash(file) == right
    (tmp_path / "a file").write_text("")

    assert HashCache(tmp_path / "a file" / ".hashes").hash(file) == right


@pytest.mark.skipif(process.find("sha256sum") is None, reason="needs coreutils")
def test_hash_of_several_can_be_made_with_sha256sum(tmp_path: Path) -> None:
    """The common hash is what 'sha256sum FILE... | sha256sum' prints, in whatever order the files were given."""
    for name in ("model-00002.safetensors", "model-00001.safetensors", "B.safetensors"):
        (tmp_path / name).write_text(name)
    names = sorted(path.name for path in tmp_path.iterdir())
    listing = process.run(["sha256sum", *names], timeout_s=30, cwd=str(tmp_path)).stdout

    found = hash_files(tmp_path, list(reversed(names)), HashCache(None))

    assert together(found) == hashlib.sha256(listing.encode()).hexdigest()
    assert together([]) == together([*found, Hashed("unread", 3)]) == ""


def test_hugging_face_cache_names_its_blobs(tmp_path: Path) -> None:
    """A file of a snapshot has the hash that its blob is named by, without being read; a git hash is none."""
    name = hashlib.sha256(b"x").hexdigest()
    for blob in (name, "0" * 40):
        (tmp_path / "blobs").mkdir(exist_ok=True)
        (tmp_path / "blobs" / blob).write_text("x")
    (tmp_path / "big").symlink_to("blobs/" + name)
    (tmp_path / "small").symlink_to("blobs/" + "0" * 40)
    shutil.copy(tmp_path / "blobs" / name, tmp_path / "plain")

    assert blob_hash(tmp_path / "big") == name
    assert blob_hash(tmp_path / "small") == blob_hash(tmp_path / "plain") == blob_hash(tmp_path / "gone") == ""
