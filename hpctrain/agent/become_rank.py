"""What a forked child of the warm process changes about itself to be like a newly started process (adapter over ``os``)."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain.agent.python_command import PythonCommand, prepare

_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61
_OOM_SCORE = "500"
_PYTHON_IGNORES = {signal.SIGPIPE, signal.SIGXFSZ}
_UNCHANGEABLE = {signal.SIGKILL, signal.SIGSTOP}
_NO_PROGRAM = 127
_NOT_PERMITTED = 126


@dataclass(frozen=True, slots=True)
class Parent:
    """The warm process: its id, and the C library through which a child ties its life to it.

    Attributes:
        agent: its own parent, which may look why a rank hangs.
    """

    pid: int
    libc: ctypes.CDLL
    agent: int


def become_rank(order: Mapping[str, Any], output: int, parent: Parent) -> PythonCommand:
    """In the child: be a rank; return what it is to run.

    Args:
        order: ``argv``, ``script``, ``module``, ``args``, ``env`` and ``workdir`` of the rank.
        output: descriptor for its standard output and error.
    """
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    parent.libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent.libc.prctl(_PR_SET_PTRACER, parent.agent, 0, 0, 0)
    if os.getppid() != parent.pid:
        os._exit(1)
    # See start_rank.py: the kernel should rather take a rank than the agent, or the process that can fork another.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write(_OOM_SCORE)
    _default_signals()
    os.environ.clear()
    os.environ.update(order["env"])
    command = PythonCommand(tuple(order["argv"]), order["script"], order["module"], tuple(order["args"]))
    try:
        os.chdir(order["workdir"])
        _new_randomness()
        prepare(command)
    except OSError as error:
        os.write(2, f"hpctrain: cannot start {command.argv[0]!r}: {error.strerror}\n".encode(errors="replace"))
        os._exit(_NOT_PERMITTED if isinstance(error, PermissionError) else _NO_PROGRAM)
    return command


def _default_signals() -> None:
    """As a new interpreter has them, and none blocked."""
    for number in signal.valid_signals() - _UNCHANGEABLE:
        with contextlib.suppress(OSError, ValueError):
            if number in _PYTHON_IGNORES:
                signal.signal(number, signal.SIG_IGN)
            elif number == signal.SIGINT:
                signal.signal(number, signal.default_int_handler)
            else:
                signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _new_randomness() -> None:
    """Draw seeds again that came from the system at import. (Python's own generator does it itself.)"""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    if "torch.random" in sys.modules:
        sys.modules["torch.random"].default_generator.seed()
    if "multiprocessing.process" in sys.modules:
        processes = sys.modules["multiprocessing.process"]
        processes.current_process().authkey = os.urandom(32)
        vars(processes)["ORIGINAL_DIR"] = str(Path.cwd())  # where a spawned child of the rank looks for its files


