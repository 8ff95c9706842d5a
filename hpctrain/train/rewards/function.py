"""Rewards from the user's own function, called in a process of its own (adapter over processes).

So a function that never returns can be ended, whatever it does, and what it prints or breaks is not the trainer's. The
function is ``f(prompts, completions, **columns)`` as trl's own reward functions are, and returns one number per completion,
or None where it does not apply.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.errors import RecipeError
from hpctrain.train.environment import TORCHRUN_NAMES
from hpctrain.train.rewards.batch import Batch

START_S = 120.0
"""Longest time for the function's module to be imported."""
MOST_TIMEOUTS = 3
"""Batches in a row that may take too long; then it counts as a function that never returns."""
_GRACE_S = 0.5
"""Time beyond its own in which the process writes down where it is."""
_MOST_ANSWER_BYTES = 64 * 2**20


class FunctionReward:
    """A user's function behind a process.

    Args:
        target: ``module:function`` or ``/path/file.py:function``.
        name: of the reward, for messages.
        timeout_s: for one call; a batch that takes longer counts 0.
        directory: where the process runs, and where modules are found first.

    Raises:
        RecipeError: the function cannot be imported; says why and where.
    """

    def __init__(self, target: str, *, name: str, timeout_s: float, directory: str | None = None) -> None:
        self._target, self._name, self._timeout_s = target, name, timeout_s
        self._directory = directory if directory and Path(directory).is_dir() else None
        self._timeouts = 0
        self._child: process.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._where: Any = None
        self._start()

    def __call__(self, batch: Batch) -> list[float | None]:
        """The function's rewards; 0 for all of a batch that took too long.

        Raises:
            RecipeError: the function raised, returned something else than one number per completion, ended its process, or
                took too long :data:`MOST_TIMEOUTS` times in a row.
        """
        if self._line is None:
            self._start()
        question = {"prompts": batch.prompts, "completions": batch.completions, "columns": dict(batch.rows)}
        try:
            answer = self._ask(question, self._timeout_s)
        except TimeoutError:
            return self._too_long(len(batch))
        self._timeouts = 0
        if "problem" in answer:
            raise self._error(answer["problem"], answer.get("where", ""))
        return self._checked(answer.get("rewards"), len(batch))

    def close(self) -> None:
        """End the process."""
        if self._line is not None:
            self._line.close()
            self._line = None
        if self._child is not None:
            process.kill_group(self._child, signal.SIGKILL)
            self._child.wait()
            self._child = None

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        self._where = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        descriptors = (theirs.fileno(), self._where.fileno())
        argv = [sys.executable, "-m", "hpctrain.train.rewards.function_child", str(descriptors[0]), str(descriptors[1]),
                str(os.getpid()), str(self._timeout_s), self._target]
        environment = {name: value for name, value in os.environ.items() if name not in TORCHRUN_NAMES}
        # It prints where we do, but never on our standard output's own descriptor: that may be a protocol of its own.
        self._child = process.start(argv, env=environment, cwd=self._directory, stdout=sys.__stderr__, pass_fds=descriptors)
        theirs.close()
        self._line = ours
        try:
            answer = self._receive(START_S)
        except TimeoutError:
            self.close()
            raise self._error(f"was not imported within {START_S:g} s") from None
        if "problem" in answer:
            self.close()
            raise self._error(answer["problem"], answer.get("where", ""))

    def _ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            data = json.dumps(question).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise self._error(f"cannot be given these rows: {error}") from None
        assert self._line is not None  # noqa: S101 - started by the caller
        self._line.settimeout(seconds + _GRACE_S)
        try:
            self._line.sendall(data)
        except TimeoutError:
            raise
        except OSError:
            raise self._ended() from None
        return self._receive(seconds)

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self._line is not None  # noqa: S101 - started by the caller
        self._line.settimeout(seconds + _GRACE_S)
        found = bytearray()
        while not found.endswith(b"\n"):
            try:
                piece = self._line.recv(2**16)
            except TimeoutError:
                raise
            except OSError:
                piece = b""
            if not piece:
                raise self._ended()
            found += piece
            if len(found) > _MOST_ANSWER_BYTES:
                raise self._error("returned too much")
        answer: dict[str, Any] = json.loads(found)
        return answer

    def _too_long(self, count: int) -> list[float | None]:
        place = self._traceback_place()
        self.close()
        self._timeouts += 1
        text = f"took longer than {self._timeout_s:g} s" + (f", and was at {place}" if place else "")
        if self._timeouts >= MOST_TIMEOUTS:
            raise self._error(f"{text}; {self._timeouts} times in a row: it does not seem to return",
                              hint="raise timeout_s of this reward if the function needs that long")
        print(f"warning: reward {self._name!r}: {self._target} {text}; these answers count 0",  # noqa: T201 - a rank's log
              file=sys.stderr, flush=True)
        return [0.0] * count

    def _traceback_place(self) -> str:
        """The innermost line that the process was in, as ``faulthandler`` wrote it down."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._where.seek(0)
            for line in self._where.read().decode(errors="replace").split("\n"):
                if line.startswith("  File "):
                    return str(line.strip().removeprefix("File ").replace('"', "").replace(", line ", ":"))
        return ""

    def _checked(self, rewards: Any, count: int) -> list[float | None]:
        if not isinstance(rewards, list) or len(rewards) != count:
            got = f"{len(rewards)} values" if isinstance(rewards, list) else f"a {type(rewards).__name__}"
            raise self._error(f"returned {got}, where {count} were expected: one number per completion, in a list")
        for index, value in enumerate(rewards):
            number = isinstance(value, (int, float)) and math.isfinite(value)
            if value is not None and not number:
                raise self._error(f"returned {value!r} for completion {index}: a finite number or None was expected")
        return [None if value is None else float(value) for value in rewards]

    def _ended(self) -> RecipeError:
        assert self._child is not None  # noqa: S101 - started by the caller
        with contextlib.suppress(process.TimeoutExpired):
            self._child.wait(timeout=5)
        code = self._child.returncode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit status {code}"
        self.close()
        return self._error(f"ended its process ({how})")

    def _error(self, problem: str, where: str = "", hint: str = "") -> RecipeError:
        return RecipeError(f"{self._target} {problem}", where=where or f"reward {self._name!r}",
                           hint=hint or "mend the function; the run then goes on from its last checkpoint")
