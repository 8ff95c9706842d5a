"""Manifest and commit record: made, and checked when they are read (service over xxhash; every store uses it)."""

from __future__ import annotations

import json
from collections.abc import Mapping

import xxhash

from hpctrain.checkpoint import names
from hpctrain.checkpoint.manifest import CommitRecord, FileEntry, Manifest
from hpctrain.checkpoint.names import CheckpointName


def entry_of(name: str, data: bytes) -> FileEntry:
    """The manifest's entry of a file with this content."""
    return FileEntry(name, len(data), xxhash.xxh3_128_hexdigest(data))


def self_sealed(record: Mapping[str, object]) -> bytes:
    """The text of a record, with the hash of itself (computed with an empty one in its place) at the end.

    Nothing else stands for such a file, so without it a flipped bit in its time or reason would go unnoticed.
    """
    text = json.dumps({**record, "xxh3_128": ""}, indent=2)
    return (json.dumps({**record, "xxh3_128": xxhash.xxh3_128_hexdigest(text.encode())}, indent=2) + "\n").encode()


def make_records(
    name: CheckpointName, manifest: Manifest, *, time: float, reason: str, world: Mapping[str, object],
) -> tuple[bytes, bytes]:
    """The texts of ``manifest.json`` and ``commit.json``."""
    text = manifest.to_bytes()
    entry = entry_of(names.MANIFEST, text)
    record = CommitRecord(name.step, name.incarnation, float(time), reason, entry, manifest.size_bytes, world)
    return text, self_sealed(record.to_json())


def read_commit(sealed: bytes) -> CommitRecord:
    """Read ``commit.json`` back.

    Raises:
        ValueError: it is not one, or damaged.
    """
    commit = CommitRecord.from_bytes(sealed)
    if sealed != self_sealed(commit.to_json()):
        raise ValueError(f"{names.COMMIT} is damaged (its own xxh3 hash is another)")
    return commit


def read_manifest(name: CheckpointName, commit: CommitRecord, text: bytes) -> Manifest:
    """Read ``manifest.json`` back.

    Raises:
        ValueError: it is not the one that was committed, or of another checkpoint.
    """
    if entry_of(names.MANIFEST, text) != commit.manifest:
        raise ValueError(f"{names.MANIFEST} is not the one that was committed")
    manifest = Manifest.from_bytes(text)
    if not ((commit.step, commit.incarnation) == (name.step, name.incarnation) == (manifest.step, manifest.incarnation)):
        raise ValueError(f"it says step {commit.step} of incarnation {commit.incarnation}, its name says otherwise")
    return manifest


def entry_in(manifest: Manifest, file: str) -> FileEntry:
    """What the manifest says of a file.

    Raises:
        ValueError: nothing.
    """
    expected = next((entry for entry in manifest.files if entry.name == file), None)
    if expected is None:
        raise ValueError(f"{file} is not in the manifest")
    return expected


def check_sizes(manifest: Manifest, sizes: Mapping[str, int]) -> None:
    """Compare what lies in a store with the manifest.

    Raises:
        ValueError: a file is missing, or has another size.
    """
    for entry in manifest.files:
        size = sizes.get(entry.name)
        if size is None:
            raise ValueError(f"{entry.name} is missing")
        if size != entry.size_bytes:
            raise ValueError(f"{entry.name} has {size} bytes instead of {entry.size_bytes}")
