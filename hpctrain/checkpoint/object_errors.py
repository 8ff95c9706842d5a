"""What the errors of object stores mean (pure).

Each library behind fsspec has classes of its own. What counts is: is it worth trying again, and what should a person read.
"""

from __future__ import annotations

import errno
from typing import Any

from hpctrain.checkpoint.object_url import masked

_TRY_AGAIN = {408, 409, 425, 429}
"""HTTP statuses below 500 after which the same request may succeed."""
_TRY_AGAIN_CODES = {
    "BadDigest", "IncompleteBody", "OperationAborted", "ConditionalRequestConflict", "RequestTimeout",
    "RequestTimeTooSkewed", "SlowDown", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch",
}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_FINAL_CLASSES = _NO_CREDENTIALS | {
    "ParamValidationError", "InvalidRegionError", "NoRegionError", "UnknownEndpointError", "ProfileNotFound",
    "ConfigNotFound", "ConfigParseError", "InvalidConfigError", "SSOTokenLoadError", "UnauthorizedSSOTokenError",
}
_FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, TypeError,
          AttributeError, NotImplementedError, ImportError, MemoryError)


class ShortError(OSError):
    """An object ends before the bytes that were asked for: no further try makes it longer."""


def status(error: BaseException) -> int | None:
    """HTTP status of an answer; None when there was none, or it is not known."""
    found = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode") or getattr(error, "code", None)
    try:
        return int(found) if found is not None else None
    except (TypeError, ValueError):
        return None


def code(error: BaseException) -> str:
    """S3's name of an error; "" when it has none."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def is_final(error: BaseException) -> bool:
    """The same request would fail in the same way."""
    if code(error) in _TRY_AGAIN_CODES:
        return False
    answered = status(error)
    if answered is not None:
        return (400 <= answered < 500 and answered not in _TRY_AGAIN) or answered == 501
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return True
    return isinstance(error, (*_FINAL, ShortError)) or type(error).__name__ in _FINAL_CLASSES


def already_there(error: BaseException) -> bool:
    """A conditional write found an object of that name."""
    return isinstance(error, FileExistsError) or status(error) == 412


def is_missing(error: BaseException) -> bool:
    """There is no such object, folder, upload or bucket."""
    return isinstance(error, FileNotFoundError) or status(error) == 404


def as_os_error(error: BaseException, where: str) -> OSError:
    """One line for people, in the class that says what kind it is; never with credentials in it."""
    text = masked(" ".join(str(error).split()) or type(error).__name__)[:300]
    if type(error).__name__ in _NO_CREDENTIALS:
        return PermissionError(errno.EACCES, f"there are no credentials for it ({text})", where)
    if isinstance(error, OSError) and error.strerror and error.errno:
        text = masked(error.strerror)
    if isinstance(error, PermissionError) or status(error) in (401, 403):
        return PermissionError(errno.EACCES, f"access denied: {text}", where)
    if is_missing(error):
        return FileNotFoundError(errno.ENOENT, text, where)
    if isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        detail = "" if type(error).__name__ in text else f" ({text})"
        return TimeoutError(errno.ETIMEDOUT, f"the store did not answer in time{detail}", where)
    known = error.errno if isinstance(error, OSError) else None
    return OSError(known or errno.EIO, text, where)


def _response(error: BaseException | None) -> dict[str, Any]:
    """What S3 answered, as botocore's error keeps it; s3fs makes another error of that one."""
    while error is not None:
        found = getattr(error, "response", None)
        if isinstance(found, dict):
            return found
        error = error.__cause__
    return {}
