"""``hpctrain remote-serve``: the end of ``hpctrain --remote`` that runs on the login node (entry point).

Not for people. It reads one request from standard input, so that nothing of it stands in a process list or passes a shell,
runs the command in this process, and sends what that prints as frames. Standard input that ends means that nobody is there
any more: a command that follows something ends then, any other carries its work out to the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hpctrain.fleet.remote_link import Link
    from hpctrain.fleet.remote_store import Store

LONGEST_REQUEST_BYTES = 256 * 2**20
SENT = ".sent"
"""Below the directory of runs: it is on the file system that the nodes see. Names with a dot are no runs."""


@click.command(name="remote-serve", hidden=True)
def remote_serve() -> int:
    """Answer 'hpctrain --remote' of another machine; not for people."""
    from hpctrain import __version__
    from hpctrain.cli.main import invoke, show_error
    from hpctrain.errors import HpctrainError, StopRequested, StorageError
    from hpctrain.fleet.remote_frames import PROTOCOL, hello
    from hpctrain.fleet.remote_link import Link

    write, source = _take_over_streams()
    write(hello(__version__))
    try:
        request = json.loads(source.line(LONGEST_REQUEST_BYTES) or b"{}")
    except ValueError:
        request = {}
    if not isinstance(request, dict) or request.get("protocol") != PROTOCOL:
        return 1  # the other end has read which protocol this is, and says so
    worker = _Worker(request, source, invoke)
    link = worker.link = Link(write, at=request.get("at"), now=worker.now, on_mark=worker.remember)
    # Another exception ends this process without a last frame: the other end shows the last line of its traceback.
    with link.in_place_of_the_terminal(request.get("terminal") or {}), link.kept_alive():
        try:
            code = worker.work()
        except HpctrainError as error:
            code = show_error(error)
        except OSError as error:
            code = show_error(StorageError(error.strerror or str(error), where=str(error.filename or "")))
        except KeyboardInterrupt:
            code = show_error(StopRequested("interrupted"))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    link.end(code)
    return code


class _Source:
    """Standard input. Not Python's own buffered one: a thread that waits in that keeps the interpreter from ending."""

    def __init__(self) -> None:
        self._data = b""

    def read(self, size: int) -> bytes:
        """At least one byte and at most so many; empty at the end."""
        data = self._data or os.read(0, max(size, 2**16))
        self._data = data[size:]
        return data[:size]

    def line(self, limit_bytes: int) -> bytes:
        """Up to the next end of a line."""
        pieces: list[bytes] = []
        left = limit_bytes
        while left > 0 and (piece := self.read(min(left, 2**16))):
            head, newline, rest = piece.partition(b"\n")
            pieces.append(head + newline)
            left -= len(piece)
            if newline:
                self._data = rest + self._data
                break
        return b"".join(pieces)


def _take_over_streams() -> tuple[Callable[[bytes], None], _Source]:
    """The way out and the way in; whatever else writes to standard output goes to standard error from now on."""
    out = os.dup(1)
    os.dup2(2, 1)

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(out, view):]

    return write, _Source()


class _Worker:
    """Does what one request asks."""

    link: Link

    def __init__(self, request: Mapping[str, Any], source: _Source, invoke: Callable[..., int]) -> None:
        from hpctrain.clock import SystemClock

        self.now = SystemClock().time()
        self._request, self._source, self._invoke = request, source, invoke
        self._argv = [str(word) for word in request.get("argv") or ()]
        self._submission = ""
        self._store: Store | None = None
        self._locks = contextlib.ExitStack()

    def work(self) -> int:
        """Answer the question, or run the command."""
        if self._request.get("op") == "missing":
            store = self._open_store()
            self.link.answer({"missing": store.missing([str(name) for name in self._request.get("names") or ()])})
            return 0
        os.environ["HPCTRAIN_REMOTE"] = "here"
        terminal = self._request.get("terminal") or {}
        if terminal.get("columns"):
            os.environ |= {"COLUMNS": str(terminal["columns"]), "LINES": str(terminal.get("lines") or 24)}
        os.environ["TERM"] = str(terminal.get("term") or "dumb")
        os.environ |= {"NO_COLOR": "1"} if terminal.get("no_color") else {}
        sys.argv = ["hpctrain", *self._argv]
        tree = self._request.get("tree")
        with self._locks:
            if not tree:
                return self._run()
            if "sending" not in self._request:
                with tempfile.TemporaryDirectory(prefix="hpctrain-dry-run-") as place:
                    return self._run_in(_write_out(tree, Path(place)))
            return self._submit(tree, str(self._request.get("request")))

    def remember(self, changes: Mapping[str, Any], items: list[tuple[int, str]]) -> None:
        """A submission has succeeded: whoever asks for the same one again is told so, and it is not made twice."""
        if self._submission and self._store is not None and "run" in changes:
            self._store.record(self._submission, {**changes, "items": items})
            self._submission = ""
            self._locks.close()

    def _submit(self, tree: Mapping[str, Any], request: str) -> int:
        store = self._open_store()
        for name, size_bytes in self._request["sending"]:
            store.receive(str(name), int(size_bytes), self._source.read)
        self._locks.enter_context(store.carrying_out(request))
        outcome = store.outcome(request)
        if outcome is not None:
            self._say_again(outcome)
            self._locks.close()
            return self._run()
        place = store.plant(request, {str(path): str(name) for path, name in tree["files"].items()}, tree["folders"])
        self._submission = request
        self.link.following = True  # what is printed about a submission and that it was made travel together
        try:
            return self._run_in(place / tree["folder"])
        finally:
            if self._submission:
                store.forget(request)

    def _say_again(self, outcome: dict[str, Any]) -> None:
        for stream, text in outcome.pop("items"):
            self.link.put(int(stream), str(text))
        self.link.mark(outcome)

    def _run_in(self, folder: Path) -> int:
        before = Path.cwd()
        os.chdir(folder)
        try:
            return self._run()
        finally:
            os.chdir(before)

    def _run(self) -> int:
        self.link.following = self.link.following or bool(self._request.get("hold"))
        with _listening(self._source, self.link, lambda: bool(self._request.get("hold")) and not self._submission):
            return self._invoke(self._argv, link=self.link)

    def _open_store(self) -> Store:
        from hpctrain.files import storage_errors
        from hpctrain.fleet.remote_store import Store
        from hpctrain.jobs.find import read_run
        from hpctrain.settings_file import load_settings

        if self._store is None:
            runs_dir = Path(load_settings().runs_dir)
            with storage_errors(runs_dir):
                runs_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._store = Store(runs_dir / SENT)
            self._store.prune(self.now, lambda name: read_run(runs_dir / name) is not None)
        return self._store


@contextlib.contextmanager
def _listening(source: _Source, link: Link, may_be_left: Callable[[], bool]) -> Iterator[None]:
    """While the body runs, an ``i`` from the other end is a Ctrl-C here, and so is its going away for what may be left."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    done = threading.Event()

    def listen() -> None:
        while not done.is_set():
            try:
                word = source.read(1)
            except (OSError, ValueError):
                word = b""
            if done.is_set():
                return
            if not word:
                link.lost = True
            if word == b"i" or (not word and may_be_left()):
                os.kill(os.getpid(), signal.SIGINT)
            if not word:
                return

    threading.Thread(target=listen, daemon=True, name="other end").start()
    try:
        yield
    finally:
        done.set()


def _write_out(tree: Mapping[str, Any], place: Path) -> Path:
    """The tree of a dry run: recipes as they are, other files empty. It goes away afterwards."""
    from hpctrain.fleet.remote_store import inside

    for folder in tree["folders"]:
        inside(place, str(folder)).mkdir(parents=True, exist_ok=True)
    for path, text in tree["files"].items():
        target = inside(place, str(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(str(text), encoding="utf-8")
    return inside(place, str(tree["folder"]))
