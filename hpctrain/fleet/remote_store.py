"""Files that were sent here: each content once, and a tree of them for each submission (adapter over the file system).

Everything lies below one private directory on the file system that the nodes see, beside the runs::

    objects/<sha256>      one content; never changed after it has its name; read-only. "x" follows where it may be executed
    trees/<request>/      the files of one submission as they lay on the other machine, hard links to objects
    trees/<request>.json  what became of that submission: the run's name, and what was printed
    trees/<request>.lock  held while it is carried out

A tree goes when the run that was made from it is gone; an object when no tree has used it for a month.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpctrain.errors import StorageError, UsageError
from hpctrain.files import make_private_dir, storage_errors, write_json_atomic

KEEP_OBJECTS_S = 30 * 86400
KEEP_TREES_S = 86400
"""A tree without a run is kept so long, for a connection that comes back."""
_CHUNK = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}x?")
_REQUEST = re.compile(r"[0-9a-f]{16,64}")


class Store:
    """The directory of files that were sent to this user.

    Args:
        root: made where it is missing.
    """

    def __init__(self, root: Path) -> None:
        self._root = make_private_dir(root)
        self._objects = make_private_dir(root / "objects")
        self._trees = make_private_dir(root / "trees")

    def missing(self, names: Sequence[str]) -> list[str]:
        """Which of these objects must be sent. What is here is read and compared: a damaged one is not used again."""
        absent = []
        for name in dict.fromkeys(names):
            path = self._objects / _checked(_DIGEST, name)
            try:
                good = _digest(path) == name[:64]
            except OSError:
                good = False
            if not good:
                path.unlink(missing_ok=True)
                absent.append(name)
            elif path.stat().st_nlink == 1:
                os.utime(path)
        return absent

    def receive(self, name: str, size_bytes: int, read: Callable[[int], bytes]) -> None:
        """Take one object from a stream.

        Raises:
            StorageError: it cannot be written, the stream ends, or what came is not what the name says.
        """
        path = self._objects / _checked(_DIGEST, name)
        digest, left = hashlib.sha256(), size_bytes
        with storage_errors(path):
            handle, draft = tempfile.mkstemp(prefix=".new-", dir=self._objects)
            try:
                with os.fdopen(handle, "wb") as file:
                    while left:
                        chunk = read(min(left, _CHUNK))
                        if not chunk:
                            raise StorageError("the connection ended while a file was being sent", where=name)
                        digest.update(chunk)
                        file.write(chunk)
                        left -= len(chunk)
                    os.fchmod(file.fileno(), 0o500 if name.endswith("x") else 0o400)
                    file.flush()
                    os.fsync(file.fileno())
                if digest.hexdigest() != name[:64]:
                    raise StorageError(
                        "a file has changed while it was being sent, or was damaged on the way",
                        hint="do it again when nothing writes to the recipe's files",
                    )
                Path(draft).replace(path)
            finally:
                Path(draft).unlink(missing_ok=True)

    def plant(self, request: str, files: Mapping[str, str], folders: Sequence[str]) -> Path:
        """The tree of a submission, made if it is not there.

        Args:
            files: object by path below the tree.
            folders: directories of it, also without a file.

        Raises:
            UsageError: a path leads out of the tree.
            StorageError: it cannot be made, or an object is missing.
        """
        tree = self._trees / _checked(_REQUEST, request)
        if tree.is_dir():
            return tree
        with storage_errors(tree):
            draft = Path(tempfile.mkdtemp(prefix=".new-", dir=self._trees))
            try:
                for folder in folders:
                    inside(draft, folder).mkdir(parents=True, exist_ok=True)
                for path, name in files.items():
                    target = inside(draft, path)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _give(self._objects / _checked(_DIGEST, name), target)
                draft.rename(tree)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        return tree

    @contextlib.contextmanager
    def carrying_out(self, request: str) -> Iterator[None]:
        """Hold a submission's lock: a second connection waits here until the first one's attempt has ended, however."""
        handle = os.open(self._trees / f"{_checked(_REQUEST, request)}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):  # a file system without locks: then two attempts in one moment may meet
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def record(self, request: str, outcome: Mapping[str, Any]) -> None:
        """Remember what became of a submission."""
        write_json_atomic(self._trees / f"{_checked(_REQUEST, request)}.json", dict(outcome))

    def outcome(self, request: str) -> dict[str, Any] | None:
        """What was remembered; None for nothing."""
        try:
            value = json.loads((self._trees / f"{_checked(_REQUEST, request)}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    def forget(self, request: str) -> None:
        """Remove the tree of a submission that came to nothing. The lock stays: another attempt may wait for it."""
        shutil.rmtree(self._trees / _checked(_REQUEST, request), ignore_errors=True)
        (self._trees / f"{request}.json").unlink(missing_ok=True)

    def prune(self, now: float, is_run: Callable[[str], bool]) -> None:
        """Remove trees whose run is gone, then objects that nothing has used for long.

        Args:
            now: seconds since the epoch.
            is_run: a run of this name is still there.
        """
        kept: dict[str, bool] = {}
        for path in sorted(self._trees.iterdir()):
            request = path.name.partition(".")[0] or path.name
            if request not in kept:
                outcome = self.outcome(request) if _REQUEST.fullmatch(request) else None
                kept[request] = outcome is not None and is_run(str(outcome.get("run")))
            with contextlib.suppress(OSError):
                if kept[request] or path.stat().st_mtime > now - KEEP_TREES_S:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()
        for path in self._objects.iterdir():
            with contextlib.suppress(OSError):
                state = path.stat()
                if state.st_nlink == 1 and state.st_mtime < now - KEEP_OBJECTS_S:
                    path.unlink()


def inside(root: Path, relative: str) -> Path:
    """A path below a directory.

    Raises:
        UsageError: it would lead out of it.
    """
    parts = relative.split("/")
    if relative.startswith("/") or ".." in parts or "\0" in relative:
        raise UsageError(f"a file may not be sent to {relative!r}")
    return root.joinpath(*[part for part in parts if part not in ("", ".")])


def _give(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where there are no hard links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)


def _checked(pattern: re.Pattern[str], text: str) -> str:
    if not pattern.fullmatch(text):
        raise UsageError(f"not a name of a sent file: {text!r}")
    return text


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
