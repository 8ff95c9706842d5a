"""Writes down what the ranks of this node are doing, before anything is killed (adapter over /proc and py-spy).

py-spy reads the memory of a process without its help, so that it also works on one that is stopped or blocked. Where it is
not installed or not permitted, a rank that has asked for it (:mod:`hpctrain.train.traceable`) writes its own stacks when it
gets :data:`DUMP_SIGNAL`; no other process is ever sent that signal. What the kernel tells is written in any case.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hpctrain import process
from hpctrain.clock import Clock
from hpctrain.detect.stacks import Stack, Thread, from_faulthandler, from_py_spy, render
from hpctrain.errors import HpctrainError
from hpctrain.files import make_private_dir, write_atomic

DUMP_SIGNAL = signal.SIGUSR2
STACKS_SUFFIX = ".stacks"
"""A rank that writes its own stacks holds a file open whose name ends so."""
MOST_CHILDREN = 8
_AT_ONCE = 16
_PAUSE_S = 0.05


def dump_stacks(ranks: Mapping[int, int], into: Path, *, clock: Clock, timeout_s: float = 5.0) -> Mapping[int, str]:
    """What each rank does, as text that :func:`hpctrain.detect.stacks.parse` reads; also ``into/rank-00003.txt``.

    Never raises: what could not be read or written is said in the texts. A file system that hangs holds nobody up longer
    than ``timeout_s``.

    Args:
        ranks: rank to process id, on this node.
        into: directory for the files; made if it is not there.
        timeout_s: for everything together.
    """
    deadline = clock.monotonic() + timeout_s
    program = find_py_spy()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="stacks") as pool:
        read_until = deadline - 0.3 * timeout_s
        jobs = {rank: pool.submit(_dump, rank, pid, program, clock, read_until) for rank, pid in ranks.items()}
        texts = {rank: render(job.result()) for rank, job in jobs.items()}
    writer = threading.Thread(target=_write, args=(into, texts), name="stacks-writer", daemon=True)
    writer.start()
    writer.join(max(0.1, deadline - clock.monotonic()))
    return texts


def find_py_spy() -> str | None:
    """The program: beside this interpreter, or on the PATH."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if beside.is_file() else process.find("py-spy")


def _dump(rank: int, pid: int, program: str | None, clock: Clock, deadline: float) -> Stack:
    state, kernel = _state(pid)
    if state == "X":
        return Stack(rank, pid, "X", "", "the process is gone")
    threads: tuple[Thread, ...] = ()
    source = "py-spy is not installed"
    if program is not None:
        threads, source = _by_py_spy(pid, program, clock, deadline)
    if not threads:
        threads, also = _by_itself(pid, clock, deadline)
        source = also if threads else f"{source}; {also}"
    return Stack(rank, pid, state, kernel, source, threads)


def _by_py_spy(pid: int, program: str, clock: Clock, deadline: float) -> tuple[tuple[Thread, ...], str]:
    """The threads, and who has read them or why nobody could."""
    why = "py-spy had no time"
    for candidate in (pid, pid, *_children(pid)):  # twice: what moves while it is read may not be understood
        left_s = deadline - clock.monotonic()
        if left_s <= 0:
            break
        # Not blocking: attaching to a process that hangs in the kernel may wait for ever.
        argv = [program, "dump", "--pid", str(candidate), "--json", "--nonblocking"]
        try:
            result = process.run(argv, timeout_s=left_s)
            threads = from_py_spy(result.stdout, candidate)
        except (HpctrainError, OSError) as error:
            return (), f"py-spy could not be run: {error}"
        except ValueError:
            words = " ".join(result.stderr.split())
            why = why if why != "py-spy had no time" else f"py-spy: {words[:200] or 'it wrote nothing'}"
            continue
        if any(thread.is_main and thread.frames for thread in threads):
            return threads, "read by py-spy" + (f" from its child {candidate}" if candidate != pid else "")
    return (), why


def _by_itself(pid: int, clock: Clock, deadline: float) -> tuple[tuple[Thread, ...], str]:
    """Let the rank write its stacks, if it is prepared to."""
    path = _own_file(pid)
    if path is None or not _handles(pid, DUMP_SIGNAL):
        return (), "the program does not write its own stacks"
    with contextlib.suppress(OSError):
        begin = path.stat().st_size
        os.kill(pid, DUMP_SIGNAL)
        size = begin
        while clock.monotonic() < deadline:
            clock.sleep(_PAUSE_S)
            before, size = size, path.stat().st_size
            if size > begin and size == before:
                threads = from_faulthandler(path.read_bytes()[begin:].decode(errors="replace"))
                return threads, "written by the rank itself"
    return (), "the rank did not write its own stacks in time"


# --- /proc ------------------------------------------------------------------------------------------------------------


def _state(pid: int) -> tuple[str, str]:
    """State and kernel function of the main thread; "X" for a process that is gone."""
    state, kernel = "X", ""
    with contextlib.suppress(OSError, IndexError):
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    with contextlib.suppress(OSError):
        name = Path(f"/proc/{pid}/wchan").read_text().strip()
        kernel = "" if name == "0" else name
    return state, kernel


def _children(pid: int) -> list[int]:
    """Descendants, nearest first: a rank may be a shell script that runs Python."""
    found: list[int] = []
    ask = [pid]
    while ask and len(found) < MOST_CHILDREN:
        one = ask.pop(0)
        with contextlib.suppress(OSError, ValueError):
            below = [int(word) for word in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
            found += below
            ask += below
    return found[:MOST_CHILDREN]


def _own_file(pid: int) -> Path | None:
    with contextlib.suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(fd)  # noqa: PTH115 - a Path would cost one more object for each of hundreds
                if target.endswith(STACKS_SUFFIX):
                    return Path(target)
    return None


def _handles(pid: int, number: signal.Signals) -> bool:
    """The process has a handler for a signal, which would otherwise end it."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _write(into: Path, texts: Mapping[int, str]) -> None:
    with contextlib.suppress(OSError, HpctrainError):
        make_private_dir(into)
        for rank, text in texts.items():
            write_atomic(into / f"rank-{rank:05d}.txt", text, durable=False)
