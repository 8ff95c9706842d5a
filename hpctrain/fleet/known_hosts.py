"""OpenSSH's known_hosts files: which key a host is known to have (pure).

Understood: names, patterns with ``*``, ``?`` and ``!``, ``[host]:port``, hashed names, and ``@revoked``. Certificates of
hosts (``@cert-authority``) are not: such a host counts as unknown, and is said to be known by certificate alone.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

UNKNOWN, KNOWN, CHANGED, REVOKED = "unknown", "known", "changed", "revoked"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One key that a file has for a host.

    Attributes:
        kind: ``ssh-ed25519``, ``ssh-rsa``, ``ecdsa-sha2-nistp256`` and the like.
        key: the public key as base64.
        marker: ``@revoked``, ``@cert-authority`` or "".
        where: ``file:line``.
    """

    kind: str
    key: str
    marker: str
    where: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What the files say of the key that a host shows.

    Attributes:
        state: :data:`UNKNOWN`, :data:`KNOWN`, :data:`CHANGED` (another key of this kind is known) or :data:`REVOKED`.
        where: the line that says so, as ``file:line``; "" for an unknown host.
    """

    state: str
    where: str = ""


def keys_of(name: str, files: Iterable[tuple[str, str]]) -> tuple[KnownKey, ...]:
    """Every key that the files have for a host.

    Args:
        name: ``host``, or ``[host]:port`` where the port is not 22.
        files: (path, text) of each.
    """
    found = []
    for path, text in files:
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            marker = words.pop(0) if words[0].startswith("@") else ""
            if len(words) >= 3 and _names(words[0], name):
                found.append(KnownKey(words[1], words[2], marker, f"{path}:{number}"))
    return tuple(found)


def judge(known: Iterable[KnownKey], kind: str, key: str) -> Answer:
    """Whether a host may have the key that it shows.

    Args:
        kind, key: of that key, as in :class:`KnownKey`.
    """
    keys = [one for one in known if one.marker != "@cert-authority"]
    for one in keys:
        if one.marker == "@revoked" and one.key == key:
            return Answer(REVOKED, one.where)
    for one in keys:
        if not one.marker and one.key == key:
            return Answer(KNOWN, one.where)
    other = next((one for one in keys if not one.marker and one.kind == kind), None)
    return Answer(CHANGED, other.where) if other else Answer(UNKNOWN)


def kinds_of(known: Iterable[KnownKey]) -> tuple[str, ...]:
    """The kinds of key a host is known by, each once, in the order of the files."""
    return tuple(dict.fromkeys(one.kind for one in known if not one.marker))


def fingerprint(key: bytes) -> str:
    """A public key as ``ssh-keygen -l`` shows it: ``SHA256:...``."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def _names(field: str, name: str) -> bool:
    if field.startswith("|1|"):
        return _hashed(field, name)
    low, found = name.lower(), False
    for pattern in field.split(","):
        wanted = pattern.lower().lstrip("!").replace("[", "[[]")
        if fnmatch.fnmatchcase(low, wanted):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hashed(field: str, name: str) -> bool:
    try:
        _, _, salt, digest = field.split("|")
        expected = base64.b64decode(digest, validate=True)
        found = hmac.new(base64.b64decode(salt, validate=True), name.lower().encode(), hashlib.sha1).digest()
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(found, expected)
