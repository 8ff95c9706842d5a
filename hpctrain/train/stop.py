"""Has somebody asked to save and stop? (adapter over one file and two signals)

Nothing is done when the request arrives: a signal handler that saved would save half a step. The request is noted,
and the training loop acts on it at the next step boundary, once all ranks have agreed.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Notes a request from the stop file or a signal.

    Args:
        path: the stop file; "" looks only for signals.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._signal = ""

    def install(self) -> None:
        """Note SIGTERM and SIGUSR1 instead of dying of them."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    @property
    def reason(self) -> str:
        """Why this rank wants to stop; "" while it does not. Costs one ``stat`` at most."""
        if self._signal:
            return self._signal
        return "the stop file appeared" if self._path and os.path.exists(self._path) else ""  # noqa: PTH110 - 3x cheaper

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._signal = f"{signal.Signals(number).name} was received"
