"""What lies in a place of checkpoints, by looks and by every byte (service over a :class:`Store`).

Looks: the commit record, the manifest's hash, each file's presence, size and owner. Only :func:`verify` reads the tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import xxhash

from hpctrain.checkpoint import pins
from hpctrain.checkpoint.manifest import CommitRecord, FileEntry, Manifest
from hpctrain.checkpoint.names import COMMIT, CheckpointName, parse_name
from hpctrain.checkpoint.store import Store
from hpctrain.errors import NotFoundError

State = Literal["complete", "incomplete", "damaged"]
OnBytes = Callable[[int], None]
"""Told how many bytes were read since it was told last."""
LATEST = "latest"


def ignore(_count: int) -> None:
    """For callers that do not show progress."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One checkpoint as it looks.

    Attributes:
        state: ``complete`` as far as can be seen without reading tensors, ``incomplete`` without a commit record,
            ``damaged`` when it must not be used.
        problem: what is wrong; "" when nothing is.
        time: when it was committed, or its directory last changed; seconds since the epoch.
        size_bytes: of all its files.
        reason: why it was saved.
        world: layout of the ranks that saved it.
        pin: why it is kept, None if it is not pinned.
    """

    name: CheckpointName
    state: State
    problem: str = ""
    time: float | None = None
    size_bytes: int = 0
    files: int = 0
    reason: str = ""
    world: Mapping[str, Any] = field(default_factory=dict)
    pin: pins.Pin | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``-o json``."""
        pin = None if self.pin is None else {"reason": self.pin.reason, "time": self.pin.time}
        return {
            "name": str(self.name), "step": self.name.step, "incarnation": self.name.incarnation, "state": self.state,
            "problem": self.problem or None, "time": self.time, "size_bytes": self.size_bytes, "files": self.files,
            "reason": self.reason or None, "world": dict(self.world), "pin": pin,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What reading every byte of a checkpoint has shown; no problems: it is what was saved."""

    name: CheckpointName
    size_bytes: int
    files: int
    problems: tuple[str, ...]


def look(tier: Store) -> list[Listed]:
    """Everything that is named like a checkpoint, newest first.

    Raises:
        OSError: the directory cannot be read.
    """
    found = [name for entry in tier.entries() if (name := parse_name(entry)) is not None]
    return [listed for name in sorted(found, reverse=True) if (listed := look_at(tier, name)) is not None]


def look_at(tier: Store, name: CheckpointName) -> Listed | None:
    """One checkpoint; None if it has gone in the meantime."""
    opened = open_checked(tier, name)
    try:
        sizes = tier.sizes(name) if isinstance(opened, str) else {COMMIT: 0}
        committed = COMMIT in sizes
        gone = not sizes and str(name) not in tier.entries()
    except OSError:
        opened, sizes, committed, gone = "it cannot be read", {}, True, False
    if gone:
        return None
    pin = pins.read_pin(tier, name)
    if isinstance(opened, str):
        size_bytes, files, time = sum(sizes.values()), len(sizes), _changed(tier, name)
        problem = opened if committed else "no commit record: it is being written, or what a save left that was cut off"
        return Listed(name, "damaged" if committed else "incomplete", problem, time, size_bytes, files, pin=pin)
    commit, manifest = opened
    return Listed(name, "complete", "", commit.time, manifest.size_bytes, len(manifest.files), commit.reason,
                  commit.world, pin)


def open_checked(tier: Store, name: CheckpointName) -> tuple[CommitRecord, Manifest] | str:
    """Commit record and manifest, or why the checkpoint must not be used."""
    try:
        return tier.open(name)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{Path(error.filename).name} cannot be read: {error.strerror}" if error.filename else str(error)
    except ValueError as error:
        return str(error)


def verify(tier: Store, name: CheckpointName, on_bytes: OnBytes = ignore) -> Verdict:
    """Read a checkpoint whole and compare every file with the hash that was committed."""
    opened = open_checked(tier, name)
    if isinstance(opened, str):
        return Verdict(name, 0, 0, (opened,))
    _, manifest = opened
    problems = tuple(problem for entry in manifest.files if (problem := _damage(tier, name, entry, on_bytes)))
    return Verdict(name, manifest.size_bytes, len(manifest.files), problems)


def newest_whole(
    tier: Store, candidates: Iterable[CheckpointName], on_bytes: OnBytes = ignore,
) -> CheckpointName | None:
    """The newest checkpoint of which every byte is right: what a restore would take."""
    return next((name for name in sorted(candidates, reverse=True) if not verify(tier, name, on_bytes).problems), None)


def choose(listed: Sequence[Listed], key: str, *, where: str) -> Listed:
    """The checkpoint that a person means by a step, a directory's name, or ``latest`` (the newest complete one).

    Raises:
        NotFoundError: there is none; the message names those there are.
    """
    complete = [item for item in listed if item.state == "complete"]
    if key == LATEST:
        found = complete[:1]
    elif key.isdecimal():
        # The same step may have been saved by several incarnations: the newest counts, a complete one before others.
        same = [item for item in listed if item.name.step == int(key)]
        found = [item for item in same if item.state == "complete"][:1] or same[:1]
    else:
        found = [item for item in listed if str(item.name) == key]
    if found:
        return found[0]
    steps = ", ".join(str(item.name.step) for item in complete[:8]) + (", ..." if len(complete) > 8 else "")
    missing = "no complete checkpoint" if key == LATEST else f"no checkpoint {key!r}"
    raise NotFoundError(missing, where=where, hint=f"there are these steps: {steps}" if steps else "nothing was saved yet")


def read_entry(tier: Store, name: CheckpointName, file: str, on_bytes: OnBytes = ignore) -> FileEntry:
    """Read a file whole: its size and hash as they are now. Raises OSError."""
    digest, size_bytes = xxhash.xxh3_128(), 0
    for chunk in tier.chunks(name, file):
        digest.update(chunk)
        size_bytes += len(chunk)
        on_bytes(len(chunk))
    return FileEntry(file, size_bytes, digest.hexdigest())


def _damage(tier: Store, name: CheckpointName, entry: FileEntry, on_bytes: OnBytes) -> str:
    try:
        return "" if read_entry(tier, name, entry.name, on_bytes) == entry else (
            f"{entry.name} is damaged (its xxh3 hash is not the committed one)")
    except OSError as error:
        return f"{entry.name} cannot be read: {error.strerror}"


def _changed(tier: Store, name: CheckpointName) -> float | None:
    try:
        return tier.changed(name)
    except OSError:
        return None
