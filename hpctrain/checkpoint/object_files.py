"""Objects of one place in an object store, each call bounded and tried again (adapter over ``fsspec``).

The only file that knows fsspec. S3 is spoken to request by request where that makes a difference: parts of an upload in
parallel, each tried again by itself; uploads that nobody will finish aborted; folders removed a thousand objects at a time.
Everything else is what any file system of fsspec does. Credentials and endpoints are found as the library finds them
(environment, ``~/.aws``, instance roles; ``AWS_ENDPOINT_URL``, ``FSSPEC_S3_...``); nothing of them passes through here.

All errors are :class:`OSError` with a text for people.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hpctrain.checkpoint import object_errors
from hpctrain.checkpoint.object_patience import Limits, Patience
from hpctrain.checkpoint.object_url import clean_url, protocol
from hpctrain.errors import MissingDependencyError, UsageError
from hpctrain.files import PRIVATE_FILE

T = TypeVar("T")
_S3 = {"s3", "s3a"}
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_BULK = 1000
"""Objects that S3 removes in one request."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing; ``time`` in seconds since the epoch, None where the store does not tell."""

    size_bytes: int
    time: float | None


class ObjectFiles:
    """Objects below a URL. Any thread may call; after a fork the child connects anew.

    Args:
        url: such as ``s3://bucket/prefix``, without credentials.

    Raises:
        UsageError: the URL cannot be used.
        MissingDependencyError: the package for it is not installed.
    """

    def __init__(self, url: str, limits: Limits | None = None) -> None:
        self.where = clean_url(url)
        self.limits = limits or Limits()
        self._class = _file_system_class(self.where)
        self._root = str(self._class._strip_protocol(self.where)).rstrip("/")
        self._patient = Patience(self.limits, object_errors.is_final)
        self.is_s3 = protocol(self.where) in _S3
        self._connected: tuple[int, Any] | None = None
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """What lies directly below the URL; empty when nothing does."""
        return sorted(self._list("", folders=True))

    def listing(self, folder: str) -> dict[str, Found]:
        """The objects directly in a folder."""
        return {name: _found(info) for name, info in self._list(folder, folders=False).items()}

    def read(self, path: str) -> bytes | None:
        """A whole small object; None when there is none."""
        at_once = {"max_concurrency": 1} if self.is_s3 else {}  # one request, instead of asking for the size before
        try:
            return bytes(self.attempt(path, lambda: self.call("cat_file", self.full(path), **at_once)))
        except FileNotFoundError:
            return None

    def read_into(self, path: str, offset: int, target: memoryview) -> None:
        """Fill ``target`` with the bytes from ``offset``: all of them, however often the answer breaks off."""
        def once() -> None:
            data = self.call("cat_file", self.full(path), start=offset, end=offset + len(target), size_bytes=len(target))
            if len(data) != len(target):
                size = self._size(path)
                problem = object_errors.ShortError if size < offset + len(target) else OSError
                raise problem(f"the answer ended after {len(data)} of {len(target)} bytes")
            target[:] = data

        if len(target):
            self.attempt(path, once)

    def exists(self, path: str) -> bool:
        """Whether there is such an object."""
        return self.size_bytes(path) is not None

    def size_bytes(self, path: str) -> int | None:
        """Of an object; None when there is none."""
        try:
            return self.attempt(path, lambda: self._size(path))
        except FileNotFoundError:
            return None

    def write(self, path: str, data: bytes) -> None:
        """Put a small object there, in place of what is there; it is whole or not there at all."""
        self.attempt(path, lambda: self._put(path, data))

    def create(self, path: str, data: bytes) -> bool:
        """Put a small object there if there is none (decided by the store, where it can); whether it holds these bytes now.

        A store that knows no conditional writes is asked first, which leaves a moment between the question and the write.
        """
        try:
            self.attempt(path, lambda: self._put(path, data, mode="create"))
        except FileExistsError:
            return self.read(path) == data  # an earlier try whose answer was lost may have made it
        except OSError as error:
            if object_errors.status(error) != 501:
                raise
            if self.exists(path):
                return self.read(path) == data
            self.write(path, data)
        return True

    def remove(self, path: str) -> None:
        """Remove an object if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.attempt(path, lambda: self.call("rm_file", self.full(path)))

    def remove_folder(self, folder: str) -> None:
        """Remove everything below a folder, also the uploads into it that were never finished."""
        if self.is_s3:
            self._remove_on_s3(folder)
            return
        with contextlib.suppress(FileNotFoundError):
            self.attempt(folder, lambda: self.call("rm", self.full(folder), recursive=True))

    def unfinished(self) -> list[tuple[str, str]]:
        """(path, id) of the uploads below the URL that were begun and neither finished nor aborted; S3 only."""
        if not self.is_s3:
            return []
        bucket, prefix = self.bucket_and_key("")
        found = self.attempt("", lambda: self.s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/".lstrip("/")))
        skip = len(prefix) + 1 if prefix else 0
        return [(str(upload["Key"])[skip:], str(upload["UploadId"])) for upload in found.get("Uploads") or ()]

    def abort(self, path: str, upload_id: str) -> None:
        """Forget an upload and its parts."""
        bucket, key = self.bucket_and_key(path)
        with contextlib.suppress(FileNotFoundError):
            self.attempt(path, lambda: self.s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload_id))

    # ---------------------------------------------------------------- how it is asked

    def full_url(self, path: str) -> str:
        """For messages."""
        return f"{self.where}/{path}" if path else self.where

    def full(self, path: str) -> str:
        """As fsspec wants it."""
        return f"{self._root}/{path}" if path else self._root

    def bucket_and_key(self, path: str) -> tuple[str, str]:
        """As S3 wants it."""
        bucket, _, key = self.full(path).partition("/")
        return bucket, key

    def attempt(self, path: str, operation: Callable[[], T]) -> T:
        """Do something with an object until it works or the patience ends. Raises OSError."""
        where = self.full_url(path)
        try:
            return self._patient(operation)
        except Exception as error:
            if object_errors.already_there(error):
                raise FileExistsError(errno.EEXIST, "it is there already", where) from error
            raise object_errors.as_os_error(error, where) from error

    def call(self, method: str, *arguments: Any, size_bytes: int = 0, **options: Any) -> Any:
        """One call of the file system, given up after a while."""
        system, timeout_s = self.system(), self.limits.timeout_s(size_bytes)
        if getattr(system, "async_impl", False):
            from fsspec.asyn import sync

            return sync(system.loop, getattr(system, f"_{method}"), *arguments, timeout=timeout_s, **options)
        return bounded(lambda: getattr(system, method)(*arguments, **options), timeout_s)

    def s3(self, method: str, *, size_bytes: int = 0, **options: Any) -> Any:
        """One request to S3, by its name in botocore."""
        return self.call("call_s3", method, size_bytes=size_bytes, **options)

    def _put(self, path: str, data: bytes, **mode: str) -> None:
        self.call("pipe_file", self.full(path), data, size_bytes=len(data), **mode)
        self.make_private(path)

    def open_for_writing(self, path: str) -> Any:
        """A stream of fsspec's, whose bytes are an object once it is committed."""
        return bounded(lambda: self.system().open(self.full(path), "wb", autocommit=False), self.limits.timeout_s())

    def make_private(self, path: str) -> None:
        """Only its owner reads it, where that is told by a mode; in a store it is told by the store's own rules."""
        if protocol(self.where) in ("file", "local"):  # fsspec knows no modes
            Path(self.full(path)).chmod(PRIVATE_FILE)

    def _size(self, path: str) -> int:
        if not self.is_s3:
            return int(self.call("info", self.full(path))["size"])
        bucket, key = self.bucket_and_key(path)  # fsspec would also look for a folder of this name
        return int(self.s3("head_object", Bucket=bucket, Key=key)["ContentLength"])

    def _list(self, folder: str, *, folders: bool) -> Mapping[str, Mapping[str, Any]]:
        full = self.full(folder)
        try:
            infos = self.attempt(folder, lambda: self.call("ls", full, detail=True))
        except FileNotFoundError as error:
            if object_errors.code(error) == "NoSuchBucket":
                raise
            return {}
        names = {str(info["name"]).rstrip("/").rsplit("/", 1)[-1]: info for info in infos
                 if str(info["name"]).strip("/") != full.strip("/")}
        return names if folders else {name: info for name, info in names.items() if info["type"] == "file"}

    def _remove_on_s3(self, folder: str) -> None:
        bucket, key = self.bucket_and_key(folder)
        for path, upload_id in self.unfinished():
            if path.startswith(f"{folder}/"):
                self.abort(path, upload_id)
        while names := list(self._list(folder, folders=False))[:_BULK]:
            wanted = {"Objects": [{"Key": f"{key}/{name}"} for name in names], "Quiet": True}
            gone = self.attempt(folder, partial(self.s3, "delete_objects", Bucket=bucket, Delete=wanted))
            for problem in gone.get("Errors") or ():
                text = f"{problem.get('Code')}: {problem.get('Message')}"
                raise PermissionError(errno.EACCES, text, self.full_url(folder))

    def system(self) -> Any:
        """The file system of fsspec, of this process."""
        with self._lock:
            if self._connected is None or self._connected[0] != os.getpid():
                self._connected = (os.getpid(), self._connect())
            return self._connected[1]

    def _connect(self) -> Any:
        import fsspec

        # Of its own, and without a memory of listings: another process's commit must be seen at once.
        options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if protocol(self.where) in ("file", "local"):
            options["auto_mkdir"] = True
        if not self.is_s3:
            return fsspec.filesystem(protocol(self.where), **options)
        sites_own = dict(fsspec.config.conf.get("s3", {}).get("config_kwargs") or {})
        # Tries are counted here alone: three layers that each try five times hide a dead server for an hour.
        config = {"connect_timeout": self.limits.call_s, "read_timeout": self.limits.call_s,
                  "retries": {"total_max_attempts": 1}}
        system = fsspec.filesystem("s3", config_kwargs={**config, **sites_own}, **options)
        system.retries = 1
        return system


def _file_system_class(url: str) -> Any:
    try:
        import fsspec

        return fsspec.get_filesystem_class(protocol(url))
    except ImportError as error:
        wanted = _PACKAGES.get(protocol(url), "hpctrain[object]")
        raise MissingDependencyError(
            f"{protocol(url)}:// needs a package that is not installed: {error}", hint=f"pip install '{wanted}'",
        ) from None
    except ValueError:
        raise UsageError(f"{url}: fsspec knows no {protocol(url)}://", hint="s3://bucket/prefix, for example") from None


def _found(info: Mapping[str, Any]) -> Found:
    time = info.get("LastModified") or info.get("mtime") or info.get("created")
    if isinstance(time, datetime):
        time = time.timestamp()
    return Found(int(info.get("size") or 0), float(time) if isinstance(time, (int, float)) else None)


def bounded(call: Callable[[], T], timeout_s: float) -> T:
    """A call that may never return: it is left behind in a thread of its own then."""
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=work, name="object-store", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {timeout_s:.0f} s")
    return results[0]
