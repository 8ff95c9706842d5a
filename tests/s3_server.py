"""A real S3 API server in a process of its own, and a proxy in front of it that misbehaves as it is told."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PROGRAM = """
import logging, sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
sys.stdin.read()
"""
PART_BYTES = 64 * 1024
"""Smallest part that this server takes; Amazon's takes none below 5 MiB."""


@contextmanager
def s3_server(log: Path) -> Iterator[int]:
    """Its port, while it runs. It ends when its standard input does, so also when this process is killed."""
    secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "S3_UPLOAD_PART_MIN_SIZE": str(PART_BYTES)}
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            env={**os.environ, **secrets},
        )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        line = server.stdout.readline()
        assert line, log.read_text()
        yield int(line)
    finally:
        server.stdin.close()
        server.stdout.close()
        server.wait(20)


@dataclass(frozen=True)
class Request:
    """What arrived at the proxy, counted from 0."""

    number: int
    method: str
    path: str


Fault = Callable[[Request], str]
"""What to do with a request: "" for nothing; "500", "503"; "reset" before it was passed on; "lost": passed on, but the
connection ends before the answer; "cut": half of the answer's body; "slow": a tenth of a second later; "hang": no answer."""


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to a server.

    Args:
        port: of the server.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = port
        self.fault: Fault = lambda _request: ""
        self.requests: list[Request] = []
        self.hit: list[str] = []
        self.released = threading.Event()
        self.lock = threading.Lock()

    def begin(self, fault: Fault) -> None:
        """From now on, count from 0 and misbehave like this."""
        with self.lock:
            self.fault, self.requests, self.hit = fault, [], []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the plan."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def do_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            request = Request(len(self.server.requests), self.command, self.path)
            self.server.requests.append(request)
            fault = self.server.fault(request)
            if fault:
                self.server.hit.append(fault)
        if fault == "hang":
            self.server.released.wait()
        if fault in ("reset", "hang"):
            self._hang_up()
            return
        if fault == "slow":
            time.sleep(0.1)
        if fault in ("500", "503"):
            code = "InternalError" if fault == "500" else "SlowDown"
            text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>told to</Message></Error>".encode()
            self._answer(int(fault), {"Content-Type": "application/xml"}, text)
            return
        status, headers, data = self._pass_on(body)
        if fault == "lost":
            self._hang_up()
        else:
            self._answer(status, headers, data, sent=len(data) // 2 if fault == "cut" else len(data))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any  # noqa: N815 - http.server's names

    def _pass_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("expect", "connection")}
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, dict(answer.getheaders()), data

    def _answer(self, status: int, headers: dict[str, str], data: bytes, sent: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = next((value for name, value in headers.items() if name.lower() == "content-length"), len(data))
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[:sent])
        if sent is not None and sent < len(data):
            self.close_connection = True

    def _hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def faulty_proxy(port: int) -> Iterator[FaultyProxy]:
    """A proxy in front of the server at this port."""
    proxy = FaultyProxy(port)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.released.set()
        proxy.shutdown()
        proxy.server_close()
        thread.join()
