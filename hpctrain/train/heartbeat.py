"""Says every few milliseconds that this rank makes progress, and where (adapter over one file).

The file holds one JSON object in a line of fixed length, overwritten in place: writing costs microseconds, never grows,
and never waits for a disk when the file lies on tmpfs. A reader may catch a line half overwritten; it then reads again.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock, SystemClock

LINE_BYTES = 768
PHASES = ("init", "data", "load", "step", "save", "evaluate", "finish")


class Heartbeat:
    """One rank's heartbeat file.

    Args:
        path: "" writes nothing.
        rank, incarnation: stamped on every beat.
    """

    def __init__(self, path: str, rank: int, incarnation: int, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._fixed = {"rank": rank, "incarnation": incarnation}
        self._values: dict[str, Any] = {"phase": "init", "step": 0, "total_steps": None}
        self._handle: int | None = None
        self._spent: dict[str, float] = {}
        self._since = self._clock.monotonic()
        if path:
            # A heartbeat that cannot be opened must not stop the training; whoever waits for it will say so.
            with contextlib.suppress(OSError):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def beat(self, phase: str, **values: Any) -> None:
        """Overwrite the line: now, this phase, these values and those given before.

        Args:
            phase: one of :data:`PHASES`.
            values: ``step``, ``total_steps``, ``loss``, ``learning_rate``, ``tokens_per_s``, ``eta_s``, and ``detail``,
                a short text that holds for this beat only.
        """
        if self._handle is None:
            return
        self._values.pop("detail", None)
        if "timings" not in self._values:
            self._count()
        self._values.update(values, phase=phase)
        record = {"time": round(self._clock.time(), 3), **self._fixed, **self._values}
        with contextlib.suppress(OSError):
            os.pwrite(self._handle, render(record), 0)

    def first_step(self) -> None:
        """The first step is done: from now on each beat says what came before it took, in seconds, and when it was done."""
        if "timings" not in self._values:
            self._count()
            spent = {f"{phase}_s": round(self._spent.get(phase, 0.0), 3) for phase in ("init", "data", "load", "step")}
            self._values["timings"] = {**spent, "at": round(self._clock.time(), 3)}

    def _count(self) -> None:
        """Add the time since the last beat to the phase that it said."""
        now, was = self._clock.monotonic(), self._values["phase"]
        self._spent[was] = self._spent.get(was, 0.0) + now - self._since
        self._since = now

    def close(self) -> None:
        """Close the file; it stays, with the last beat."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def render(record: dict[str, Any]) -> bytes:
    """The line, padded to :data:`LINE_BYTES`; an over-long ``detail`` is left out, as it is the only free text."""
    finite = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}
    line = json.dumps(finite, separators=(",", ":")).encode()
    if len(line) >= LINE_BYTES:
        line = json.dumps({**finite, "detail": ""}, separators=(",", ":")).encode()
    return line.ljust(LINE_BYTES - 1)[: LINE_BYTES - 1] + b"\n"
