"""URLs of model endpoints (pure)."""

from __future__ import annotations

import re

CHAT = "/chat/completions"
"""What every server of this kind has below its URL."""
_URL = re.compile(r"^https?://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?(?P<path>/\S*)?$")
_LOOPBACK = re.compile(r"^(localhost|\[::1\]|127(\.\d{1,3}){3})$", re.IGNORECASE)


def url_problem(url: str) -> str:
    """Why a text cannot be the URL of an endpoint, "" if it can."""
    if "@" in url.partition("://")[2].partition("/")[0]:
        return "must hold no user or password; name the variable with the key in api_key_env"
    match = _URL.match(url)
    if match is None or not url.isprintable():
        return "is no URL such as http://127.0.0.1:8000/v1"
    if match["port"] and not 1 <= int(match["port"]) <= 65535:
        return f"has port {match['port']}, which is none"
    path = match["path"] or ""
    if "?" in path or "#" in path:
        return "must hold no '?' and no '#'"
    if path.rstrip("/").endswith(CHAT):
        return f"must end before {CHAT}, which is added to it"
    return ""


def is_loopback(url: str) -> bool:
    """The URL means the machine that asks, whichever that is."""
    match = _URL.match(url)
    return match is not None and _LOOPBACK.match(match["host"]) is not None


def is_open(url: str) -> bool:
    """What is sent there, a key too, can be read on the way: plain HTTP to another machine."""
    return url.startswith("http://") and not is_loopback(url)
