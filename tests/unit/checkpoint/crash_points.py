"""Every state in which a crash can leave a directory, from one recorded run of the code that writes it.

The recorder looks at the directory just before each file operation (Python's audit events, and ``fsync``, name them all,
so also those of libraries) and keeps what it sees together with what has been forced to disk so far. From each of these
moments follow the states that a reader may find:

- *kill*: the process ends here; all it did is there.
- *torn*: the file that was being written ends anywhere.
- *lost data*: the machine ends here; what was written but not flushed is missing, cut or zeros.
- *lost and reordered names*: names made, changed or removed in a directory that was not flushed since may be there or not,
  each on its own.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Tree = dict[str, "bytes | None"]
"""Relative path to content; None for a directory."""
Change = dict[tuple[int, str], "int | None"]
"""What one operation did to names: (directory, name) to the file it now means, None for removed."""
NAMES = {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
"""Audit events that are raised before an operation on names."""

_listeners: list[Callable[[str], None]] = []
_hooks: list[object] = []


@dataclass(frozen=True)
class Moment:
    """The directory just before one operation.

    Files and directories have numbers of their own, because the file system uses its numbers again.
    """

    what: str
    names: dict[int, dict[str, int]]
    data: dict[int, bytes]
    flushed_names: dict[int, dict[str, int]]
    flushed_data: dict[int, bytes]
    pending: tuple[Change, ...]
    written_last: frozenset[int]
    folders: frozenset[int]


class Recorder:
    """Watches a directory while code writes into it.

    Args:
        lie: operations whose flushing is not believed: "file", "directory"; to show that the test would notice.
    """

    def __init__(self, base: Path, lie: frozenset[str] = frozenset()) -> None:
        self.moments: list[Moment] = []
        self._base, self._lie = base, lie
        self._numbers: dict[int, int] = {}
        self._next = 0
        self._busy = False
        self._folders: set[int] = set()
        self._names, self._data = self._look()
        self._flushed_names = {number: dict(entries) for number, entries in self._names.items()}
        self._flushed_data = dict(self._data)
        self._pending: list[Change] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record everything that happens inside, and the moment after it."""
        if not _hooks:
            sys.addaudithook(_heard)  # it cannot be taken away again, but without listeners it costs next to nothing
            _hooks.append(_heard)
        originals = os.fsync, os.fdatasync, os.write
        os.fsync = os.fdatasync = lambda handle: self._flush(handle, originals[0])  # type: ignore[assignment]
        os.write = lambda handle, data: self._write(handle, data, originals[2])  # type: ignore[assignment]
        _listeners.append(self._note)
        try:
            yield
        finally:
            _listeners.remove(self._note)
            os.fsync, os.fdatasync, os.write = originals
        self._note("the end")

    def _note(self, what: str) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            names, data = self._look()
            self._learn(names, data)
            written = frozenset(number for number in data if data[number] != self._data.get(number, b""))
            self._names, self._data = names, data
            self.moments.append(Moment(what, names, data, dict(self._flushed_names), dict(self._flushed_data),
                                       tuple(self._pending), written, frozenset(self._folders)))
        finally:
            self._busy = False

    def _learn(self, names: dict[int, dict[str, int]], data: dict[int, bytes]) -> None:
        change: Change = {}
        for folder in {*names, *self._names}:
            before, after = self._names.get(folder, {}), names.get(folder, {})
            change |= {(folder, name): after.get(name) for name in {*before, *after} if before.get(name) != after.get(name)}
        if change:
            self._pending.append(change)

    def _write(self, handle: int, data: bytes, write: Callable[[int, bytes], int]) -> int:
        self._note("write")
        return write(handle, data)

    def _flush(self, handle: int, fsync: Callable[[int], None]) -> None:
        self._note("fsync")
        fsync(handle)
        status = os.fstat(handle)
        number = self._numbers.get(status.st_ino)
        if number is None:
            return
        if stat.S_ISDIR(status.st_mode) and "directory" not in self._lie:
            self._flushed_names[number] = dict(self._names.get(number, {}))
            kept = [{key: value for key, value in change.items() if key[0] != number} for change in self._pending]
            self._pending = [change for change in kept if change]
        elif stat.S_ISREG(status.st_mode) and "file" not in self._lie:
            self._flushed_data[number] = self._data[number]

    def _look(self) -> tuple[dict[int, dict[str, int]], dict[int, bytes]]:
        names: dict[int, dict[str, int]] = {}
        data: dict[int, bytes] = {}
        seen: set[int] = set()
        root = self._number(self._base.stat().st_ino, seen)
        folders = [(root, str(self._base))]
        while folders:
            number, folder = folders.pop()
            names[number] = {}
            self._folders.add(number)
            with os.scandir(folder) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    child = names[number][entry.name] = self._number(status.st_ino, seen)
                    if stat.S_ISDIR(status.st_mode):
                        folders.append((child, entry.path))
                    else:
                        data[child] = Path(entry.path).read_bytes()
        self._numbers = {inode: number for inode, number in self._numbers.items() if inode in seen}
        return names, data

    def _number(self, inode: int, seen: set[int]) -> int:
        seen.add(inode)
        if inode not in self._numbers:
            self._numbers[inode], self._next = self._next, self._next + 1
        return self._numbers[inode]


def states(moment: Moment) -> Iterator[tuple[str, Tree]]:
    """What a reader may find if everything ends at this moment, each with what happened to it."""
    yield "kill", _tree(moment, moment.names, moment.data)
    for number in moment.written_last:
        for length in {0, len(moment.data[number]) // 2, max(0, len(moment.data[number]) - 1)}:
            yield "torn write", _tree(moment, moment.names, {**moment.data, number: moment.data[number][:length]})
    for what_names, names in _name_states(moment):
        for what_data, data in _data_states(moment):
            yield f"{what_names}, {what_data}", _tree(moment, names, data)


def _name_states(moment: Moment) -> Iterator[tuple[str, dict[int, dict[str, int]]]]:
    pending = moment.pending
    count = range(len(pending))
    yield "all names are there", moment.names
    yield "unflushed names are lost", _applied(moment, [])
    for index in count:
        yield "one name is lost", _applied(moment, [pending[i] for i in count if i != index])
        yield "one name came first", _applied(moment, [pending[index]])
        yield "the latest names are lost", _applied(moment, list(pending[:index]))
        yield "the earliest names are lost", _applied(moment, list(pending[index:]))


def _applied(moment: Moment, changes: list[Change]) -> dict[int, dict[str, int]]:
    names = {number: dict(entries) for number, entries in moment.flushed_names.items()}
    for change in changes:
        for (folder, name), target in change.items():
            if target is None:
                names.setdefault(folder, {}).pop(name, None)
            else:
                names.setdefault(folder, {})[name] = target
    return names


def _data_states(moment: Moment) -> Iterator[tuple[str, dict[int, bytes]]]:
    on_disk = moment.flushed_data
    loose = [number for number, data in moment.data.items() if on_disk.get(number) != data]
    yield "all data is there", {**on_disk, **moment.data}
    if loose:
        yield "unflushed data is lost", {**moment.data, **dict.fromkeys(loose, b""), **on_disk}
        yield "unflushed data is zeros", {**on_disk, **moment.data, **{n: bytes(len(moment.data[n])) for n in loose}}
        yield "unflushed data is cut", {
            **on_disk, **moment.data, **{n: moment.data[n][:len(moment.data[n]) // 2] for n in loose}}
    for number in loose if len(loose) > 1 else ():
        yield "one file's data is lost", {**on_disk, **moment.data, number: on_disk.get(number, b"")}


def _tree(moment: Moment, names: dict[int, dict[str, int]], data: dict[int, bytes]) -> Tree:
    """All that can be reached from the base, whose number is 0."""
    tree: Tree = {}
    todo = [(0, "")]
    while todo:
        folder, path = todo.pop()
        for name, number in names.get(folder, {}).items():
            if number in moment.folders:
                tree[path + name] = None
                todo.append((number, f"{path}{name}/"))
            else:
                tree[path + name] = data.get(number, b"")
    return tree


def make(tree: Tree, place: Path) -> None:
    """Put a tree on disk, in an empty directory."""
    for path, content in sorted(tree.items()):
        target = place / path
        if content is None:
            target.mkdir(mode=0o700)
        else:
            target.write_bytes(content)
            target.chmod(0o600)


def crash_states(recorder: Recorder) -> list[tuple[str, str, Tree]]:
    """(operation, what happened, tree) of every different state, over all moments."""
    found: dict[Any, tuple[str, str, Tree]] = {}
    for index, moment in enumerate(recorder.moments):
        for what, tree in states(moment):
            found.setdefault(frozenset(tree.items()), (f"{index}: before {moment.what}", what, tree))
    return list(found.values())


def _heard(event: str, _arguments: tuple[Any, ...]) -> None:
    if _listeners and event in NAMES:
        for listener in _listeners:
            listener(event)
