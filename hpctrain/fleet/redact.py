"""Take secrets out of texts that leave a site (pure).

Better too much than too little: a value is taken out when its name sounds like a secret, or when it looks like one. Names,
and the rest of the line, stay, so that a reader sees that something was set.
"""

from __future__ import annotations

import re
from collections.abc import Callable

MARK = "[redacted]"

_NAME = (
    r"[\w.-]*(?:passw(?:or)?d|passphrase|passwd|storagepass|secret|token|credential|api[_-]?key|access[_-]?key|"
    r"private[_-]?key|auth[_-]?key|signing[_-]?key|encryption[_-]?key|webhook|cookie|"
    r"(?<=[_.-])(?:pass|pw|pwd|key|auth|sas)|(?<![a-z0-9])(?:pass|pw|pwd))"
)
"""A name that ends like this holds a secret: ``WANDB_API_KEY``, ``StoragePass``, ``db.password``; not ``AuthType``."""
_END = r"(?:_?\d+)?"
_QUOTED = r"\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*'"
_JSON = re.compile(rf"(?P<name>(?P<q>[\"']){_NAME}{_END}(?P=q))(?P<sep>\s*[=:]\s*)(?P<value>{_QUOTED}|[^\s,}}\]\"']+)", re.I)
_PLAIN = re.compile(rf"(?P<name>(?<![\w.-]){_NAME}{_END})(?P<sep>\s*[=:]\s*)(?P<value>{_QUOTED}|\S+)", re.I)
_OPTION = re.compile(rf"(?P<name>--?{_NAME}{_END})(?P<sep>\s*=\s*|\s+(?!-))(?P<value>{_QUOTED}|\S+)", re.I)
_HEADER = re.compile(r"(?P<name>\bauthorization)(?P<sep>\s*[:=]\s*)(?P<value>(?:\w+ +)?\S+)", re.I)
_BEARER = re.compile(r"(?P<name>\bbearer)(?P<sep>\s+)(?P<value>[\w.~+/=-]{8,})", re.I)
_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z0-9 ]*-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY[A-Z0-9 ]*-----|\Z)", re.S
)
_URL = re.compile(r"(?P<name>\b[a-z][a-z0-9+.-]*://)(?P<sep>)(?P<value>[^/\s@:]*:[^\s@]*|[^/\s@:]{20,})(?=@)", re.I)
_QUERY = re.compile(
    r"(?P<name>[?&](?:sig|signature|x-amz-signature|x-amz-credential|x-amz-security-token|code))(?P<sep>=)"
    r"(?P<value>[^&\s\"']+)", re.I,
)
_SHAPES = re.compile(
    r"\b(?:gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|sk-[\w-]{20,}|"
    r"xox[abprs]-[\w-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[\w-]{30,}|nvapi-[\w-]{20,}|npm_[A-Za-z0-9]{30,}|"
    r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,})"
    r"|(?:hooks\.slack\.com/services/\S+)"
    r"|\$(?:1|2[aby]|5|6|7|y|gy)\$[\w./$=,-]{8,}"
)
"""Tokens that are known by their shape, webhooks, hashes of passwords."""


def redact(text: str) -> tuple[str, int]:
    """The text without what is or looks like a secret, and how many values were taken out."""
    count = 0

    def counted(make: Callable[[re.Match[str]], str]) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            nonlocal count
            new = make(match)
            count += new != match[0]
            return new

        return replace

    text = _BLOCK.sub(counted(lambda _: f"-----{MARK} PRIVATE KEY-----"), text)
    for pattern in (_HEADER, _BEARER, _URL, _QUERY, _OPTION, _JSON, _PLAIN):
        text = pattern.sub(counted(_hidden), text)
    return _SHAPES.sub(counted(lambda _: MARK), text), count


def redact_bytes(data: bytes) -> tuple[bytes, int]:
    """Likewise; what is no UTF-8 stays as it is."""
    text, count = redact(data.decode("utf-8", errors="surrogateescape"))
    return text.encode("utf-8", errors="surrogateescape"), count


def _hidden(match: re.Match[str]) -> str:
    value = match["value"]
    if value in ("(null)", "null", "None", "none", "yes", "no", "true", "false", '""', "''") or MARK in value:
        return match[0]
    quote = value[0] if value[0] in "\"'" and value[-1] == value[0] else ""
    if not quote and match["name"].endswith('"'):
        quote = '"'  # a number in JSON stays JSON as a text
    return f"{match['name']}{match['sep']}{quote}{MARK}{quote}"
