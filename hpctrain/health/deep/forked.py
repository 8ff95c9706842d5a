"""Run a measurement in a forked child with a deadline (adapter over ``os.fork``).

A GPU that hangs takes its process with it and not the check: the child is killed, or given up if it cannot be killed. The
parent has imported torch and runs no operation of it: then a child starts in milliseconds and works (one operation in the
parent, and every child would hang).
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a child gave back.

    Attributes:
        value: what its work returned, as JSON can say it.
        problem: why there is no value, "" if there is one.
    """

    value: Any = None
    problem: str = ""


def run_all(works: Sequence[Callable[[], Any]], deadline_s: float) -> list[Answer]:
    """Run all of them at the same time, each in a child of its own; answers in the same order."""
    children = [_fork(work) for work in works]
    texts: list[bytes] = [b""] * len(children)
    until = time.monotonic() + deadline_s
    with selectors.DefaultSelector() as selector:
        for index, (_, pipe) in enumerate(children):
            selector.register(pipe, selectors.EVENT_READ, index)
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                if part := os.read(key.fd, 65536):
                    texts[key.data] += part
                else:
                    selector.unregister(key.fd)
        late = {key.data for key in selector.get_map().values()}
    answers = []
    for index, (pid, pipe) in enumerate(children):
        os.close(pipe)
        answers.append(_answer(pid, texts[index], deadline_s if index in late else None))
    return answers


def run_one(work: Callable[[], Any], deadline_s: float) -> Answer:
    """Run one."""
    return run_all([work], deadline_s)[0]


def _fork(work: Callable[[], Any]) -> tuple[int, int]:
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        os.setsid()  # so that what it starts itself goes with it
        os.close(reader)
        try:
            record: dict[str, Any] = {"value": work()}
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
            record = {"problem": f"{type(error).__name__}: {error}"}
        data = json.dumps(record).encode()
        while data:
            data = data[os.write(writer, data) :]
        sys.stderr.flush()
    finally:
        os._exit(0)  # no exit handlers: they belong to the parent


def _answer(pid: int, text: bytes, missed_s: float | None) -> Answer:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    status = _reap(pid)
    if missed_s is not None:
        stuck = ", and cannot be killed" if status is None else ""
        return Answer(problem=f"it did not end within {missed_s:g} s{stuck}")
    try:
        record = json.loads(text)
        return Answer(record.get("value"), str(record.get("problem", "")))
    except ValueError:
        how = f"signal {os.WTERMSIG(status)}" if status is not None and os.WIFSIGNALED(status) else "no result"
        return Answer(problem=f"its process ended with {how}")


def _reap(pid: int) -> int | None:
    """The child's status; None if it cannot be killed, as one that waits for a wedged driver."""
    until = time.monotonic() + _KILL_WAIT_S
    while True:
        try:
            found, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if found:
            return status
        if time.monotonic() > until:
            return None
        time.sleep(0.01)
