"""What makes a checkpoint complete (pure).

The manifest names every file with its size and hash; the commit record names the manifest with *its* size and hash.
So one small file, written last and atomically, stands for all bytes of the checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint, relative to its directory."""

    name: str
    size_bytes: int
    xxh3_128: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a checkpoint."""

    step: int
    incarnation: int
    world_size: int
    files: tuple[FileEntry, ...]

    @property
    def size_bytes(self) -> int:
        """Sum over all files."""
        return sum(entry.size_bytes for entry in self.files)

    def to_bytes(self) -> bytes:
        """The text of ``manifest.json``; its hash goes into the commit record."""
        files = {entry.name: {"size_bytes": entry.size_bytes, "xxh3_128": entry.xxh3_128} for entry in self.files}
        record = {"version": MANIFEST_VERSION, "step": self.step, "incarnation": self.incarnation,
                  "world_size": self.world_size, "files": files}
        return (json.dumps(record, indent=1) + "\n").encode()

    @classmethod
    def from_bytes(cls, text: bytes) -> Manifest:
        """Read ``manifest.json`` back.

        Raises:
            ValueError: it is not one, or of another version, or names a file outside the directory.
        """
        record = _object(text, "manifest")
        try:
            files = tuple(
                FileEntry(_plain(name), int(entry["size_bytes"]), str(entry["xxh3_128"]))
                for name, entry in record["files"].items()
            )
            return cls(int(record["step"]), int(record["incarnation"]), int(record["world_size"]), files)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"manifest lacks {error}") from None


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
