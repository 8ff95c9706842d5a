"""A real HTTP server that speaks as OpenAI-compatible ones do, for tests, examples and a first try without a GPU.

::

    with OpenAiServer(lambda question: "42", key="secret") as server:
        client = Client(Endpoint(url=server.url, model="local", api_key_env="KEY"), env={"KEY": "secret"})

or, with a model directory, from a shell::

    export TEACHER_KEY=$(python -c 'import secrets; print(secrets.token_urlsafe())')
    python -m hpctrain.testing.openai_server --model DIR --key-env TEACHER_KEY --port 8000

It listens on the loopback address only, asks for its key, and is made for one machine and small models; serve real ones
with vLLM.
"""

from __future__ import annotations

import argparse
import contextlib
import hmac
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from hpctrain.errors import HpctrainError, UsageError
from hpctrain.files import write_atomic
from hpctrain.testing.openai_question import Model, Question, RefusedError, Said
from hpctrain.testing.openai_scripted import SCRIPTS

LARGEST_REQUEST_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Fault:
    """How one request is treated badly.

    Attributes:
        delay_s: before anything else.
        status: answered instead of the model's words, with ``body`` or an error in OpenAI's form.
        drip_s: the reply comes byte by byte, with so long in between.
        drop: the connection is closed without a reply.
    """

    delay_s: float = 0.0
    status: int = 0
    body: bytes | None = None
    drip_s: float = 0.0
    drop: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class OpenAiServer:
    """Serves a function as a model, in threads of this process, until it is left.

    Args:
        model: gives the answer to a question; called from several threads at once.
        key: which clients must send; never "".
        name: what clients call the model.
        port: 0 takes a free one.
        fault: given the number of a request, from 0, may spoil it.

    Attributes:
        questions: what was asked so far, refused requests left out.
        requests: how many came, refused ones included.
        most_at_once: of them.
    """

    def __init__(
        self, model: Model, *, key: str, name: str = "local", port: int = 0,
        fault: Callable[[int], Fault | None] | None = None,
    ) -> None:
        if not key:
            raise ValueError("a server needs a key")
        self._model, self._key, self.name, self._fault = model, key, name, fault or (lambda _: None)
        self._lock = threading.Lock()
        self.questions: list[Question] = []
        self.requests = self.most_at_once = self._now = 0
        try:
            self._server = _Server(("127.0.0.1", port), _Handler)
        except OSError as error:
            raise UsageError(f"port {port} cannot be used: {error.strerror}", hint="choose another --port, or 0") from None
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """What a recipe gives as ``url``."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> OpenAiServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # --- what a request meets -------------------------------------------------------------------------------------

    def begin(self) -> Fault | None:
        """Count a request; the fault it is to meet."""
        with self._lock:
            number, self.requests, self._now = self.requests, self.requests + 1, self._now + 1
            self.most_at_once = max(self.most_at_once, self._now)
        return self._fault(number)

    def end(self) -> None:
        """The request is over."""
        with self._lock:
            self._now -= 1

    def accepts(self, header: str) -> bool:
        """Whether the ``Authorization`` header holds the key."""
        return hmac.compare_digest(header.encode(), f"Bearer {self._key}".encode())

    def answer(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and document for a request for an answer."""
        try:
            question, name = _question(body)
        except ValueError as error:
            return 400, _error(str(error), "invalid_request_error")
        if name != self.name:
            return 404, _error(f"the model {name!r} does not exist; this server has {self.name!r}", "model_not_found")
        with self._lock:
            self.questions.append(question)
        try:
            said = self._model(question)
        except RefusedError as error:
            return 400, _error(str(error), "invalid_request_error")
        said = Said(said) if isinstance(said, str) else said
        return 200, {
            "id": f"chatcmpl-{time.monotonic_ns()}", "object": "chat.completion", "created": int(time.time()),
            "model": self.name,
            "choices": [{
                "index": 0, "message": {"role": "assistant", "content": said.text},
                "finish_reason": "stop" if said.finished else "length",
            }],
            "usage": {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.completion_tokens,
                      "total_tokens": said.prompt_tokens + said.completion_tokens},
        }

    def models(self) -> dict[str, Any]:
        """The document of ``GET /v1/models``."""
        return {"object": "list", "data": [{"id": self.name, "object": "model", "created": 0, "owned_by": "hpctrain"}]}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: OpenAiServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """``/v1/models``."""
        if self._allowed():
            found = self.path == "/v1/models"
            self._reply(200 if found else 404, self.server.owner.models() if found else _error("no such path", "not_found"))

    def do_POST(self) -> None:
        """``/v1/chat/completions``."""
        owner = self.server.owner
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_REQUEST_BYTES:
            self._reply(413, _error("a request needs a length, of at most 16 MiB", "invalid_request_error"))
            self.close_connection = True
            return
        body = self.rfile.read(int(length))
        fault = owner.begin()
        try:
            if fault is not None and self._spoilt(fault):
                return
            if not self._allowed():
                return
            if self.path != "/v1/chat/completions":
                self._reply(404, _error("no such path", "not_found"))
                return
            self._reply(*owner.answer(body), fault=fault)
        finally:
            owner.end()

    def _spoilt(self, fault: Fault) -> bool:
        """Whether the fault was all of the reply."""
        time.sleep(fault.delay_s)
        if fault.drop:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return True
        if fault.status:
            document = _error("this fault was asked for", "fault") if fault.body is None else None
            self._reply(fault.status, document, raw=fault.body, fault=fault)
            return True
        return False

    def _allowed(self) -> bool:
        if self.server.owner.accepts(self.headers.get("Authorization", "")):
            return True
        self._reply(401, _error("the key is missing, or not the one of this server", "invalid_api_key"))
        return False

    def _reply(self, status: int, document: Any, *, raw: bytes | None = None, fault: Fault | None = None) -> None:
        body = raw if raw is not None else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (fault.headers if fault else {}).items():
            self.send_header(name, value)
        self.end_headers()
        for piece in ([body[at:at + 1] for at in range(len(body))] if fault and fault.drip_s else [body]):
            time.sleep(fault.drip_s if fault else 0.0)
            self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:
        """Questions may be private, and tests are quiet."""


def _question(body: bytes) -> tuple[Question, str]:
    """A request and the model it is for.

    Raises:
        ValueError: it is no request for an answer.
    """
    request = json.loads(body)
    if not isinstance(request, dict):
        raise ValueError("a request is a JSON object")
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise ValueError("'messages' must be a list of at least one message")
    if request.get("stream"):
        raise ValueError("this server does not stream")
    limit = request.get("max_tokens", request.get("max_completion_tokens", 256))
    temperature = request.get("temperature", 1.0)
    if not isinstance(limit, int) or limit < 1 or not isinstance(temperature, int | float) or temperature < 0:
        raise ValueError("'max_tokens' must be a whole number above 0, 'temperature' a number from 0")
    return Question(messages, float(temperature), limit), str(request.get("model"))


def _error(message: str, kind: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": kind}}


# ---------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Prints one JSON line with the URL when it is ready."""
    options = _options(argv)
    try:
        key = os.environ.get(options.key_env, "").strip()
        if not key:
            raise UsageError(f"the variable {options.key_env} with the key is not set", hint=(
                f"export {options.key_env}=$(python -c 'import secrets; print(secrets.token_urlsafe())')"))
        with _model(options) as (model, name), OpenAiServer(model, key=key, name=name, port=options.port) as server:
            ready = {"url": server.url, "model": name, "api_key_env": options.key_env, "pid": os.getpid()}
            if options.ready_file:
                write_atomic(Path(options.ready_file), json.dumps(ready) + "\n", durable=False)
            print(json.dumps(ready), flush=True)  # noqa: T201 - for whoever started it
            signal.sigwait({signal.SIGTERM, signal.SIGINT})
    except HpctrainError as error:
        print(f"error: {error}" + (f"\nhint:  {error.advice}" if error.advice else ""), file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hpctrain.testing.openai_server",
        description="Serve a small model, or a scripted one, on the loopback address as OpenAI-compatible servers do.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", metavar="DIR", help="a model directory, such as a run's model/; runs on this machine's CPU")
    what.add_argument("--scripted", choices=sorted(SCRIPTS), help="; ".join(
        f"{name}: {(script.__doc__ or '').split(chr(10))[0]}" for name, script in sorted(SCRIPTS.items())))
    parser.add_argument("--name", default="", help="what clients call the model (default: the run's or the script's)")
    parser.add_argument("--key-env", default="OPENAI_API_KEY", metavar="VARIABLE",
                        help="environment variable that holds the key which clients must send (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one (default)")
    parser.add_argument("--ready-file", default="", metavar="FILE", help="written when it serves: url and model as JSON")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the model (default: %(default)s)")
    return parser.parse_args(argv)


@contextlib.contextmanager
def _model(options: argparse.Namespace) -> Iterator[tuple[Model, str]]:
    """The model that was asked for, and its name. SIGTERM and Ctrl-C wait until they are asked for."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if options.scripted:
        script = SCRIPTS[options.scripted]
        yield (lambda question: script(question.messages)), options.name or options.scripted
        return
    from hpctrain.testing.openai_model import LocalModel

    folder = Path(options.model).absolute()
    name = folder.parent.name if folder.name == "model" else folder.name
    with LocalModel(folder, threads=options.threads) as model:
        yield model, options.name or name


if __name__ == "__main__":
    sys.exit(main())
