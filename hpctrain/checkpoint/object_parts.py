"""Objects that are sent in parts, and do not exist before the last one is there (adapter over :class:`ObjectFiles`)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterator
from typing import Any, Protocol

from hpctrain.checkpoint import object_errors
from hpctrain.checkpoint.object_files import ObjectFiles, bounded


class Parts(Protocol):
    """An object that is being sent."""

    @property
    def parallel(self) -> int:
        """How many parts may be sent at a time; 1 also means: in their order."""

    def put(self, number: int, data: bytes | bytearray) -> None:
        """Send the part of this number, counted from 1. Raises OSError."""

    def finish(self, size_bytes: int) -> None:
        """Make the object of all parts. Raises OSError: it may be there or not, but never in part."""

    def abort(self) -> None:
        """Forget what was sent. Raises OSError."""


def start(files: ObjectFiles, path: str) -> Parts:
    """Begin an object. Raises OSError."""
    return S3Parts(files, path) if files.is_s3 else StreamParts(files, path)


class S3Parts:
    """S3's multipart upload; a part that fails is sent again by itself."""

    parallel = 4

    def __init__(self, files: ObjectFiles, path: str) -> None:
        self._files, self._path = files, path
        self._tags: dict[int, str] = {}
        self._upload_id = ""
        self._begun = 0
        self._upload_id = str(self._ask("create_multipart_upload")["UploadId"])

    def put(self, number: int, data: bytes | bytearray) -> None:
        """See :class:`Parts`."""
        answer = self._ask("upload_part", size_bytes=len(data), PartNumber=number, Body=data)
        self._tags[number] = str(answer["ETag"])

    def finish(self, size_bytes: int) -> None:
        """See :class:`Parts`."""
        parts = [{"PartNumber": number, "ETag": self._tags[number]} for number in sorted(self._tags)]
        try:
            tag = str(self._ask("complete_multipart_upload", MultipartUpload={"Parts": parts})["ETag"])
        except FileNotFoundError:
            # An earlier try may have done it, and its answer was lost: then the object is the one of these parts.
            tag = self._expected_tag()
        self._check(size_bytes, tag)
        if self._begun > 1:
            self._forget_others()

    def abort(self) -> None:
        """See :class:`Parts`."""
        self._files.abort(self._path, self._upload_id)

    def _ask(self, method: str, *, size_bytes: int = 0, **options: Any) -> Any:
        bucket, key = self._files.bucket_and_key(self._path)
        place = {"Bucket": bucket, "Key": key, **({"UploadId": self._upload_id} if self._upload_id else {}), **options}

        def once() -> Any:
            self._begun += method == "create_multipart_upload"
            return self._files.s3(method, size_bytes=size_bytes, **place)

        return self._files.attempt(self._path, once)

    def _forget_others(self) -> None:
        """Abort what was begun by a try whose answer was lost: nobody knows its id, and its parts would be paid for."""
        with contextlib.suppress(OSError):
            for path, upload_id in self._files.unfinished():
                if path == self._path:
                    self._files.abort(path, upload_id)

    def _check(self, size_bytes: int, tag: str) -> None:
        bucket, key = self._files.bucket_and_key(self._path)
        there = self._files.attempt(self._path, lambda: self._files.s3("head_object", Bucket=bucket, Key=key))
        if (int(there["ContentLength"]), str(there["ETag"]).strip('"')) != (size_bytes, tag.strip('"')):
            raise OSError(errno.EIO, f"the store has {there['ContentLength']} bytes, or others, instead of the {size_bytes} "
                                     "that were sent", self._files.full_url(self._path))

    def _expected_tag(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        for number in sorted(self._tags):
            with contextlib.suppress(ValueError):  # a store whose tags are something else: the comparison says no
                digest.update(bytes.fromhex(self._tags[number].strip('"')))
        return f"{digest.hexdigest()}-{len(self._tags)}"


class StreamParts:
    """What other file systems of fsspec do: one stream, which becomes an object when it is committed."""

    parallel = 1

    def __init__(self, files: ObjectFiles, path: str) -> None:
        self._files, self._path = files, path
        self._stream: Any = files.attempt(path, lambda: files.open_for_writing(path))

    def put(self, number: int, data: bytes | bytearray) -> None:  # noqa: ARG002 - a stream has them in their order
        """See :class:`Parts`. Not tried again: nobody knows how much of it the stream has taken."""
        with self._errors():
            bounded(lambda: self._stream.write(data), self._files.limits.timeout_s(len(data)))

    def finish(self, size_bytes: int) -> None:
        """See :class:`Parts`."""
        with self._errors():
            bounded(self._commit, self._files.limits.timeout_s())
            self._files.make_private(self._path)
        there = self._files.size_bytes(self._path)
        if there != size_bytes:
            problem = f"the store has {there} bytes instead of {size_bytes}"
            raise OSError(errno.EIO, problem, self._files.full_url(self._path))

    def abort(self) -> None:
        """See :class:`Parts`."""
        with self._errors():
            bounded(self._stream.discard, self._files.limits.timeout_s())

    def _commit(self) -> None:
        self._stream.close()
        self._stream.commit()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise object_errors.as_os_error(error, self._files.full_url(self._path)) from error
