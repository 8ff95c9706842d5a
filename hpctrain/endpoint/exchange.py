"""One HTTP request and its reply, within a time limit (adapter over ``http.client``).

A socket's timeout begins anew with every byte, so a server that drips would never be given up: here the connection is cut
when the time for the whole exchange is over. Redirections are not followed, since they could carry the key to somebody else.
Proxies are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``), as for other programs.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

import hpctrain
from hpctrain.recipe.endpoint_url import is_loopback

LARGEST_REPLY_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back.

    Attributes:
        retry_after_s: what the server asks for before the next try, None where it says nothing.
    """

    status: int
    body: bytes
    retry_after_s: float | None = None


class NoReplyError(Exception):
    """No reply came; the text says why.

    Attributes:
        lasting: another try would end the same way.
    """

    def __init__(self, reason: str, *, lasting: bool = False) -> None:
        super().__init__(reason)
        self.lasting = lasting


def post(url: str, body: bytes, *, key: str = "", timeout_s: float) -> Reply:
    """Send a JSON text and return what comes back, whatever its status.

    Args:
        key: sent as a bearer token; "" sends none.
        timeout_s: for all of it, from connecting to the last byte.

    Raises:
        NoReplyError: there was no complete reply in time.
    """
    headers = {
        "Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity",
        "User-Agent": f"hpctrain/{hpctrain.__version__}", "Connection": "close",
    }
    if key:
        headers["Authorization"] = f"Bearer {key}"
    ends = time.monotonic() + timeout_s
    late = threading.Event()
    try:
        connection, target, more = _route(urlsplit(url), timeout_s)
        with contextlib.closing(connection):
            connection.connect()
            with _cut_off(connection, max(0.01, ends - time.monotonic()), late):
                connection.request("POST", target, body, {**headers, **more})
                return _read(connection.getresponse())
    except ssl.SSLCertVerificationError as error:
        raise NoReplyError(f"its certificate is not trusted: {error.verify_message}", lasting=True) from None
    except (OSError, http.client.HTTPException, ValueError, NoReplyError) as error:
        if late.is_set() or isinstance(error, TimeoutError):
            raise NoReplyError(f"no complete answer within {timeout_s:g} s") from None
        if isinstance(error, NoReplyError):
            raise
        raise NoReplyError(_reason(error)) from None


def _route(parts: SplitResult, timeout_s: float) -> tuple[http.client.HTTPConnection, str, Mapping[str, str]]:
    """A connection that is not yet open, what to ask it for, and headers that the way there needs."""
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    context = ssl.create_default_context() if secure else None
    proxy = _proxy(parts)
    if proxy is None:
        if context is not None:
            return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context), parts.path, {}
        return http.client.HTTPConnection(host, port, timeout=timeout_s), parts.path, {}
    via = (proxy.hostname or "", proxy.port or 3128)
    allowed = _proxy_key(proxy)
    if context is not None:
        tunnel = http.client.HTTPSConnection(*via, timeout=timeout_s, context=context)
        tunnel.set_tunnel(host, port, headers=dict(allowed))
        return tunnel, parts.path, {}
    return http.client.HTTPConnection(*via, timeout=timeout_s), parts.geturl(), allowed


def _proxy(parts: SplitResult) -> SplitResult | None:
    if is_loopback(parts.geturl()) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    found = urllib.request.getproxies().get(parts.scheme)
    return urlsplit(found if "://" in found else f"http://{found}") if found else None


def _proxy_key(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}


@contextlib.contextmanager
def _cut_off(connection: http.client.HTTPConnection, seconds: float, late: threading.Event) -> Iterator[None]:
    """Shut the socket down when the time is over; whoever reads from it then meets its end."""
    sock = connection.sock

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS, which a second thread must not touch

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _read(response: http.client.HTTPResponse) -> Reply:
    body = response.read(LARGEST_REPLY_BYTES + 1)
    if len(body) > LARGEST_REPLY_BYTES:
        raise NoReplyError(f"its answer is larger than {LARGEST_REPLY_BYTES // 2**20} MiB", lasting=True)
    if response.length:
        raise NoReplyError("its answer breaks off")
    return Reply(response.status, body, _seconds(response.headers.get("Retry-After")))


def _seconds(text: str | None) -> float | None:
    """``Retry-After`` in seconds; the form with a date is left to our own waiting."""
    return float(text) if text and text.strip().isdigit() else None


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens at that address (connection refused)"
    if isinstance(error, socket.gaierror):
        return f"its host name is not known here ({error.strerror})"
    if isinstance(error, http.client.RemoteDisconnected):
        return "it closed the connection without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "its answer breaks off"
    if isinstance(error, OSError):
        return f"the connection failed ({error.strerror or type(error).__name__})"
    return f"it does not speak HTTP ({type(error).__name__})"
