"""Where in an object store checkpoints lie, without secrets (pure)."""

from __future__ import annotations

import re

from hpctrain.errors import UsageError

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://(.*)$", re.DOTALL)
_USER = re.compile(r"(//)[^/@\s]*@")
_OPTION = re.compile(
    r"([?&;\s\"'](?:key|[\w.-]*(?:access_?key|secret|token|password|signature|credential)[\w.-]*)=)[^&;\s\"',}]+",
    re.IGNORECASE)
_DIRECT = re.compile(r"[?&;#]|::|\s|[\x00-\x1f]")
"""What no place of checkpoints needs: options, chained file systems, blanks."""


def is_url(text: str) -> bool:
    """Whether a person means an object store, not a path."""
    return _URL.match(text) is not None


def masked(text: str) -> str:
    """A message without the credentials that a URL in it may hold."""
    return _OPTION.sub(r"\1***", _USER.sub(r"\1***@", text))


def clean_url(text: str) -> str:
    """A URL that can be used and shown.

    Raises:
        UsageError: it is none, holds credentials, or options.
    """
    match = _URL.match(text)
    if not match or not match.group(2).strip("/") or ".." in match.group(2).split("/"):
        raise UsageError(f"{masked(text)!r} is not a URL such as s3://bucket/prefix")
    if "@" in match.group(2).split("/", 1)[0] or _OPTION.search(text):
        raise UsageError(
            f"{masked(text)} carries credentials, which do not belong into a URL",
            hint="leave them out: they are found as the store's own tools find them, in files such as ~/.aws/credentials or "
                 "in the environment",
        )
    if _DIRECT.search(match.group(2)):
        raise UsageError(
            f"{masked(text)} has options or characters that a place of checkpoints cannot have",
            hint="options such as an endpoint belong into the environment: AWS_ENDPOINT_URL, or fsspec's own FSSPEC_S3_...",
        )
    return f"{match.group(1).lower()}://{match.group(2).rstrip('/')}"


def protocol(url: str) -> str:
    """``s3`` of ``s3://bucket/prefix``."""
    return url.partition("://")[0]
