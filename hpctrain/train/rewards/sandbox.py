"""Runs code that a model wrote, in a process with limits (adapter over processes).

Held by the kernel, through :mod:`.sandbox_child`: time, processor time, memory, size of files, number of open files. Where
the kernel offers it also: no network, no other processes, writing only below the directory it runs in. It is *not* a virtual
machine: the code may read what its user may read.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from hpctrain import process

MOST_OUTPUT_BYTES = 2**20
"""Also of each file that it writes."""
_CHILD = Path(__file__).with_name("sandbox_child.py")
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Nothing of ours: no keys, no ranks, no Slurm."""
_PROTECTIONS = "protections.json"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use.

    Attributes:
        seconds: of the clock, from its start to its end, with everything it started.
        memory_bytes: of its address space; what it would need beyond is refused to it.
    """

    seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a program ended.

    Attributes:
        returncode: its exit status, negative for a signal.
        stdout: what it printed, cut at :data:`MOST_OUTPUT_BYTES`.
        timed_out: it was killed because its time was over.
        protections: what the kernel held it to beside the limits: ``network``, ``processes``, ``files``.
    """

    returncode: int
    stdout: str
    timed_out: bool
    protections: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """It ended by itself with status 0."""
        return self.returncode == 0 and not self.timed_out


def run_python(files: Mapping[str, str], argv: Sequence[str], limits: Limits, stdin: str = "") -> Outcome:
    """Run Python on files in a directory of its own, which is removed afterwards.

    Args:
        files: names and texts.
        argv: arguments of the interpreter; the first is one of the files.
        stdin: what it reads on its standard input.
    """
    with tempfile.TemporaryDirectory(prefix="hpctrain-code-", ignore_cleanup_errors=True) as place:
        inside, beside = Path(place) / "work", Path(place) / "out"
        inside.mkdir()
        beside.mkdir()
        for name, text in files.items():
            (inside / name).write_text(text, encoding="utf-8", errors="replace")
        (beside / "stdin").write_text(stdin, encoding="utf-8", errors="replace")
        command = [sys.executable, "-I", "-S", str(_CHILD), json.dumps({
            "directory": str(inside), "memory_bytes": limits.memory_bytes, "file_bytes": MOST_OUTPUT_BYTES,
            "cpu_seconds": int(limits.seconds) + 2, "report": str(beside / _PROTECTIONS), "parent": os.getpid(),
        }), sys.executable, "-I", "-B", *argv]
        return _run(command, beside, limits.seconds)


@cache
def protections() -> tuple[str, ...]:
    """What this kernel holds a program to beside the limits; found out by running one."""
    return run_python({"nothing.py": ""}, ["nothing.py"], Limits(30, 2**29)).protections


def _run(command: Sequence[str], beside: Path, seconds: float) -> Outcome:
    timed_out = False
    # Output goes to a file, whose size the kernel limits, and not through a pipe into our memory.
    with (beside / "stdin").open("rb") as source, (beside / "stdout").open("wb") as sink:
        child = process.start(command, env=_ENVIRONMENT, stdin=source, stdout=sink, stderr=process.DEVNULL)
        try:
            child.wait(timeout=seconds + 0.05)
        except process.TimeoutExpired:
            timed_out = True
        finally:
            # Also what it left running, as far as that stayed in its process group.
            process.kill_group(child)
            child.wait()
    text = (beside / "stdout").read_bytes()[:MOST_OUTPUT_BYTES].decode("utf-8", errors="replace")
    return Outcome(-9 if timed_out else child.returncode, text, timed_out, _protections(beside / _PROTECTIONS))


def _protections(report: Path) -> tuple[str, ...]:
    try:
        return tuple(json.loads(report.read_text()))
    except (OSError, ValueError):
        return ()


def remaining(deadline: float) -> float:
    """Seconds until a point of the monotonic clock, never below 0."""
    return max(0.0, deadline - time.monotonic())
