"""This end of a command that a person on another machine runs here (adapter over the process's own streams).

What the command prints goes out as frames (see :mod:`hpctrain.fleet.remote_frames`). A command that follows something holds
its output back until it says how far it has come, so that both arrive together or not at all.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

from hpctrain.fleet.remote_frames import Frame, Items, merge, pack

ALIVE_S = 30.0
"""After so much silence something is sent: a connection that is gone is noticed by writing to it."""
FLUSH_CHARACTERS = 64 * 1024


class Link:
    """What a command knows of the person it works for.

    Attributes:
        at: the position to go on from; empty at first.
        now: when the command was first asked for, seconds since the epoch: ``--since 10m`` counts from there.
        following: output is being held back for :meth:`mark`.

    Args:
        write: sends bytes; an ``OSError`` of it means that nobody listens any more, which is no error here.
        at: as the attribute.
        now: the time, for a command that is asked for the first time.
        on_mark: told the position and the items before they are sent.
    """

    def __init__(
        self, write: Callable[[bytes], None], *, at: Frame | None = None, now: float = 0.0,
        on_mark: Callable[[Frame, Items], None] | None = None,
    ) -> None:
        self.at: Frame = at or {}
        self.following = False
        self.lost = False
        self._write, self._on_mark = write, on_mark
        self._lock = threading.RLock()
        self._items: Items = []
        self._waiting = 0
        self._changes: Frame = {} if "now" in self.at else {"now": now}
        merge(self.at, self._changes)
        self.now = float(self.at["now"])

    def put(self, stream: int, text: str) -> None:
        """Print something on standard output (1) or standard error (2)."""
        if not text:
            return
        with self._lock:
            if self._items and self._items[-1][0] == stream:
                self._items[-1] = (stream, self._items[-1][1] + text)
            else:
                self._items.append((stream, text))
            self._waiting += len(text)
            if (stream == 2 and text.endswith("\n")) or (self._waiting > FLUSH_CHARACTERS and not self.following):
                self.flush()

    def flush(self) -> None:
        """Send what was printed, unless it must wait for its position."""
        with self._lock:
            if self._items and not (self.following and any(stream == 1 for stream, _ in self._items)):
                self._send({})

    def mark(self, changes: Mapping[str, Any]) -> None:
        """All that was printed belongs before this position; ``changes`` are merged into the known one."""
        with self._lock:
            merge(self._changes, dict(changes))
            merge(self.at, dict(changes))
            if self._on_mark is not None:
                self._on_mark(self._changes, self._items)
            self._send({"at": self._changes})
            self._changes = {}

    def end(self, exit_code: int) -> None:
        """Send the rest, and the exit code."""
        with self._lock:
            self._send({"exit": exit_code})

    def answer(self, frame: Frame) -> None:
        """Send something that is no output."""
        with self._lock:
            self._send(frame)

    def _send(self, frame: Frame) -> None:
        if self._items:
            frame = {"items": self._items, **frame}
        self._items, self._waiting = [], 0
        if not self.lost:
            try:
                self._write(pack(frame))
            except OSError:
                self.lost = True

    @contextmanager
    def in_place_of_the_terminal(self, terminal: Mapping[str, Any]) -> Iterator[None]:
        """Standard output and error go over this link; they look like the ones at the other end.

        Args:
            terminal: ``out`` and ``err``: whether they are terminals; ``encoding``: of the other end's output.
        """
        encoding = str(terminal.get("encoding") or "utf-8")
        out = LinkText(self, 1, is_terminal=bool(terminal.get("out")), encoding=encoding)
        err = LinkText(self, 2, is_terminal=bool(terminal.get("err")), encoding=encoding)
        with redirect_stdout(out), redirect_stderr(err):
            yield

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """While the body runs, something is sent at least every :data:`ALIVE_S`."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(ALIVE_S):
                if self._lock.acquire(timeout=ALIVE_S):
                    try:
                        if not self.lost:
                            self._write(pack({"alive": True}))
                    except OSError:
                        self.lost = True
                    finally:
                        self._lock.release()

        threading.Thread(target=beat, daemon=True, name="alive").start()
        try:
            yield
        finally:
            done.set()


class LinkText(io.TextIOBase):
    """A text stream over a link."""

    def __init__(self, link: Link, number: int, *, is_terminal: bool, encoding: str) -> None:
        super().__init__()
        self._link, self._number, self._is_terminal, self._encoding = link, number, is_terminal, encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has a plain attribute here
        """The encoding of the other end's stream."""
        return self._encoding

    @property
    def errors(self) -> str:  # type: ignore[override]  # likewise
        """The other end replaces what it cannot show."""
        return "replace"

    def write(self, text: str) -> int:
        """Print.

        Raises:
            TypeError: not text; click finds out by this what kind of stream it has.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")
        self._link.put(self._number, text)
        return len(text)

    def flush(self) -> None:
        """Send what may be sent."""
        self._link.flush()

    def isatty(self) -> bool:
        """The other end's stream is a terminal."""
        return self._is_terminal

    def writable(self) -> bool:
        """Yes."""
        return True
