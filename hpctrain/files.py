"""Files written whole or not at all, and append-only JSON lines (adapter over the file system)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import StorageError

PRIVATE_FILE = 0o600
PRIVATE_DIR = 0o700


@contextlib.contextmanager
def storage_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn the OS errors that a user can do something about into :class:`StorageError`."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "the file system is full: free some space or choose another place",
            errno.EDQUOT: "your quota is used up: free some space or choose another place",
            errno.EROFS: "the file system is read-only: choose another place",
            errno.EACCES: "you may not write there: choose another place",
        }.get(error.errno or 0, "")
        raise StorageError(f"cannot write: {error.strerror}", where=str(error.filename or path), hint=advice) from error


def make_private_dir(path: Path, *, exist_ok: bool = True) -> Path:
    """Create a directory (with its parents) that only its owner can enter; return it.

    Raises:
        StorageError: it cannot be made.
        FileExistsError: it exists and ``exist_ok`` is false.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=PRIVATE_DIR)
        except FileExistsError:
            if exist_ok and path.is_dir():
                path.chmod(PRIVATE_DIR)
                return path
            if exist_ok:
                raise
        else:
            path.chmod(PRIVATE_DIR)
            return path
    raise FileExistsError(str(path))


def write_atomic(path: Path, data: str | bytes, *, mode: int = PRIVATE_FILE, durable: bool = True) -> None:
    """Replace a file in one step: a reader sees the old text or the new one, never a part.

    Args:
        durable: also force file and directory entry to disk before returning.

    Raises:
        StorageError: no space, no permission, read-only file system.
    """
    import tempfile  # here, as it brings in random and hashlib, and a prolog has no time to waste

    payload = data.encode() if isinstance(data, str) else data
    with storage_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(payload)
                file.flush()
                os.fchmod(file.fileno(), mode)
                if durable:
                    os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        if durable:
            sync_dir(path.parent)


def create_atomic(path: Path, data: str | bytes, *, mode: int = PRIVATE_FILE) -> None:
    """Make a new file in one step; one that is there is left alone.

    Raises:
        FileExistsError: it is there.
        StorageError: no space, no permission, read-only file system.
    """
    # Not the process id: several nodes that make the same file may each have a process of that number.
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    write_atomic(draft, data, mode=mode, durable=False)
    try:
        with storage_errors(path):
            _give_name(draft, path)
    except StorageError as error:
        if isinstance(error.__cause__, FileExistsError):
            raise error.__cause__ from None
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_json_atomic(path: Path, value: Any, *, durable: bool = True) -> None:
    """:func:`write_atomic` of a value as indented JSON."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=False) + "\n", durable=durable)


def sync_dir(path: Path) -> None:
    """Force a directory's entries to disk."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append_jsonl(path: Path, record: Mapping[str, Any], *, durable: bool = False) -> None:
    """Append one JSON object as one line, in a single ``write`` on an ``O_APPEND`` descriptor.

    A line that a killed writer left without its newline is closed first, so that it cannot swallow ours. Half a surrogate
    pair, as Python reads it from a file name that is no UTF-8, is written as JSON's escape for it and read back as it was.

    Args:
        durable: force the line to disk before returning, and with the first one the file's name.

    Raises:
        StorageError: no space, no permission, read-only file system.
    """
    # In JSON "\udc80" is the escape for what Python cannot encode, and 'backslashreplace' writes just that.
    line = (json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            os.write(handle, line)
            if durable:
                os.fsync(handle)
        finally:
            os.close(handle)
        if durable and not size:
            sync_dir(path.parent)


def read_json_object(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one where it cannot be read, is no JSON, or no mapping."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; torn or foreign lines are skipped, a missing file is empty."""
    try:
        with path.open("rb") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record
    except FileNotFoundError:
        return


def _give_name(draft: Path, path: Path) -> None:
    """Move a draft to its name, unless the name is taken (where a rename would replace)."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            raise
        # A file system without hard links: reserve the name, then replace what was just made.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, PRIVATE_FILE))
        draft.replace(path)
