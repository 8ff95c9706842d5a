"""Stacks of processes that really run, stop and end."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.agent import stack_dump
from hpctrain.agent.stack_dump import dump_stacks, find_py_spy
from hpctrain.clock import SystemClock
from hpctrain.detect.stacks import cluster, minority, parse

Start = Callable[..., Any]
PROGRAM = """
import sys, threading, time
from hpctrain.train.traceable import write_stacks_on_signal
write_stacks_on_signal(sys.argv[1])
def waits_in_vain():
    time.sleep(600)
def tell():
    while sys._current_frames()[threading.main_thread().ident].f_code.co_name != "waits_in_vain":
        time.sleep(0.01)
    time.sleep(0.3)
    print("ready", flush=True)
    time.sleep(600)
threading.Thread(target=tell, daemon=True).start()
waits_in_vain()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program and waits for its first line; all are killed in the end."""
    running: list[Any] = []

    def work(program: str, *arguments: str) -> Any:
        argv = [sys.executable, "-c", textwrap.dedent(program), *arguments]
        one = process.start(argv, stdout=process.PIPE)
        running.append(one)
        assert one.stdout is not None
        assert one.stdout.readline() == b"ready\n"
        return one

    yield work
    for one in running:
        process.kill_group(one)
        one.wait()
        one.stdout.close()


def functions(text: str) -> list[str]:
    """What the main thread is in."""
    stack = parse(text)
    assert stack is not None
    return [frame.function for frame in stack.main]


@pytest.mark.skipif(find_py_spy() is None, reason="py-spy is not installed")
def test_py_spy_reads_any_program_also_a_stopped_one(start: Start, tmp_path: Path) -> None:
    """No help of the program is needed: a stopped one is read like any other, and named."""
    ranks = {rank: start(PROGRAM, "") for rank in range(3)}
    os.kill(ranks[2].pid, signal.SIGSTOP)

    pids = {rank: one.pid for rank, one in ranks.items()}
    texts = dump_stacks(pids, tmp_path / "stacks", clock=SystemClock(), timeout_s=60)

    assert all("waits_in_vain" in functions(text) for text in texts.values()), texts
    stacks = [parse(text) for text in texts.values()]
    assert minority(cluster([one for one in stacks if one])) == (2,)
    assert sorted(path.name for path in (tmp_path / "stacks").iterdir()) == [f"rank-{rank:05d}.txt" for rank in range(3)]
    assert (tmp_path / "stacks/rank-00001.txt").read_text() == texts[1]


def test_without_py_spy_a_rank_writes_its_own(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer's own handler tells what it does."""
    monkeypatch.setattr(stack_dump, "find_py_spy", lambda: None)
    one = start(PROGRAM, str(tmp_path / "heartbeat"))

    text = dump_stacks({0: one.pid}, tmp_path / "stacks", clock=SystemClock(), timeout_s=60)[0]

    assert functions(text)[0] == "waits_in_vain"
    assert "written by the rank itself" in text
    assert one.poll() is None


def test_a_program_without_a_handler_is_not_signalled(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal would end it; what the kernel tells is written all the same."""
    monkeypatch.setattr(stack_dump, "find_py_spy", lambda: None)
    one = start("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")

    text = dump_stacks({0: one.pid}, tmp_path, clock=SystemClock(), timeout_s=60)[0]

    assert text.startswith(f"rank 0, process {one.pid}: state ")
    assert "py-spy is not installed" in text
    assert one.poll() is None


def test_a_process_that_is_gone(tmp_path: Path) -> None:
    """A rank that has ended meanwhile is said to be gone."""
    ended = process.start([sys.executable, "-c", ""])
    ended.wait()

    assert "the process is gone" in dump_stacks({0: ended.pid}, tmp_path, clock=SystemClock())[0]


def test_a_program_that_hangs_holds_nobody_up(tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that never ends is killed when the time is over."""
    stuck = tmp_path / "py-spy"
    stuck.write_text("#!/bin/sh\nexec sleep 600\n")
    stuck.chmod(0o700)
    monkeypatch.setattr(stack_dump, "find_py_spy", lambda: str(stuck))
    one = start(PROGRAM, "")
    began = time.monotonic()

    text = dump_stacks({0: one.pid}, tmp_path / "stacks", clock=SystemClock(), timeout_s=2)[0]

    assert time.monotonic() - began < 60
    assert functions(text) == []
