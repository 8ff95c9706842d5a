"""What makes a checkpoint complete (pure).

The manifest names every file with its size and hash, and every tensor with its shards: which box lies where, and the hash
of its bytes. The commit record names the manifest with *its* size and hash. So one small file, written last and atomically,
stands for all bytes of the checkpoint. docs/checkpoint-format.md is the specification.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hpctrain.checkpoint.distcp import by_name
from hpctrain.checkpoint.shards import Shard, StoredShard

MANIFEST_VERSION = 2


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint, relative to its directory."""

    name: str
    size_bytes: int
    xxh3_128: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a checkpoint, and all tensors in them."""

    step: int
    incarnation: int
    world_size: int
    files: tuple[FileEntry, ...]
    shards: tuple[StoredShard, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Sum over all files."""
        return sum(entry.size_bytes for entry in self.files)

    def table(self) -> dict[str, list[StoredShard]]:
        """The shards of every tensor, by its name."""
        return by_name(self.shards)

    def to_bytes(self) -> bytes:
        """The text of ``manifest.json``; its hash goes into the commit record."""
        files = {entry.name: {"size_bytes": entry.size_bytes, "xxh3_128": entry.xxh3_128} for entry in self.files}
        tensors = {name: _tensor_to_json(stored) for name, stored in self.table().items()}
        record = {"version": MANIFEST_VERSION, "step": self.step, "incarnation": self.incarnation,
                  "world_size": self.world_size, "files": files, "tensors": tensors}
        return (json.dumps(record, separators=(",", ":")) + "\n").encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Manifest:
        """Read ``manifest.json`` back.

        Raises:
            ValueError: it is not one, or of another version, or names a file outside the directory, or bytes that are
                in no file.
        """
        record = _object(text, "manifest")
        try:
            files = tuple(
                FileEntry(_plain(name), int(entry["size_bytes"]), str(entry["xxh3_128"]))
                for name, entry in record["files"].items()
            )
            shards = tuple(shard for name, tensor in record["tensors"].items() for shard in _tensor_from_json(name, tensor))
            manifest = cls(int(record["step"]), int(record["incarnation"]), int(record["world_size"]), files, shards)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"manifest lacks {error}") from None
        _check_places(manifest)
        return manifest


@dataclass(frozen=True, slots=True)
class CommitRecord:
    """The proof that a checkpoint is complete.

    Attributes:
        step: completed optimizer steps.
        incarnation: of its writer.
        time: seconds since the epoch, UTC.
        reason: why it was saved.
        world: layout of the ranks that wrote it, such as ``{"world_size": 16, "parallelism": "fsdp2"}``.
        manifest: size and hash of ``manifest.json``.
        size_bytes: of all files that the manifest names.
    """

    step: int
    incarnation: int
    time: float
    reason: str
    manifest: FileEntry
    size_bytes: int
    world: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The object in ``commit.json``."""
        return {"version": MANIFEST_VERSION, **asdict(self), "world": dict(self.world)}

    @classmethod
    def from_bytes(cls, text: bytes) -> CommitRecord:
        """Read ``commit.json`` back.

        Raises:
            ValueError: it is not one, or of another version.
        """
        record = _object(text, "commit record")
        try:
            return cls(
                step=int(record["step"]), incarnation=int(record["incarnation"]), time=float(record["time"]),
                reason=str(record["reason"]), manifest=FileEntry(**record["manifest"]),
                size_bytes=int(record["size_bytes"]), world=dict(record["world"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"commit record lacks {error}") from None


def share(files: tuple[FileEntry, ...], rank: int, world_size: int) -> list[FileEntry]:
    """The files that one rank verifies: every file is somebody's, and the large ones are spread."""
    largest_first = sorted(files, key=lambda entry: (-entry.size_bytes, entry.name))
    return largest_first[rank::world_size]


def _tensor_to_json(stored: list[StoredShard]) -> dict[str, Any]:
    shards = [{"offsets": item.shard.offsets, "shape": item.shard.shape, "file": item.file,
               "offset_bytes": item.offset_bytes, "size_bytes": item.size_bytes, "xxh3_128": item.xxh3} for item in stored]
    return {"dtype": stored[0].shard.dtype, "shape": stored[0].shard.global_shape, "shards": shards}


def _tensor_from_json(name: str, tensor: Mapping[str, Any]) -> Iterable[StoredShard]:
    dtype, shape = str(tensor["dtype"]), tuple(map(int, tensor["shape"]))
    for item in tensor["shards"]:
        shard = Shard(name, dtype, shape, tuple(map(int, item["offsets"])), tuple(map(int, item["shape"])))
        offset, size = int(item["offset_bytes"]), int(item["size_bytes"])
        yield StoredShard(shard, str(item["file"]), offset, size, str(item["xxh3_128"]))


def _check_places(manifest: Manifest) -> None:
    """Every shard must lie inside a file of the checkpoint: a reader follows these numbers."""
    sizes = {entry.name: entry.size_bytes for entry in manifest.files}
    for item in manifest.shards:
        end = item.offset_bytes + item.size_bytes
        if item.size_bytes != item.shard.nbytes or item.offset_bytes < 0 or end > sizes.get(item.file, -1):
            raise ValueError(f"manifest puts {item.shard.name} at bytes {item.offset_bytes} to {end} of {item.file!r}, "
                             "which cannot be")


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except ValueError:
        raise ValueError(f"{what} is not JSON") from None
    if not isinstance(record, dict) or record.get("version") != MANIFEST_VERSION:
        version = record.get("version") if isinstance(record, dict) else None
        raise ValueError(f"{what} has version {version!r}, this hpctrain reads {MANIFEST_VERSION}")
    return record


def _plain(name: str) -> str:
    # A manifest is data from a disk: it must not be able to point out of its own directory.
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"manifest names {name!r}, which is no file of the checkpoint")
    return name
