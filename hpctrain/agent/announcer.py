"""Says in ``control/coordinator.json`` that there is a coordinator, in a thread of its own (service).

A slow file system must not keep the coordinator's main loop from the agents.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from hpctrain.agent.control import try_write
from hpctrain.agent.coordinator_file import RENEW_S, CoordinatorState, write_state
from hpctrain.jobs.layout import RunDir
from hpctrain.watchdog.publish import publish


def announce(run_dir: RunDir, state: CoordinatorState, status_dir: str) -> None:
    """Say it in the run directory and, where there is one, in the site's spool; what cannot be written is left out."""
    try_write(lambda: write_state(run_dir, state))
    if status_dir:
        try_write(lambda: publish(Path(status_dir), state.job, asdict(state)))


class Announcer:
    """Writes the file again and again.

    Args:
        state: makes what is to be written, from the number of the writing; None where the coordinator is stuck.
        status_dir: the site's spool for a watchdog of the whole cluster, "" for none.
    """

    def __init__(
        self, run_dir: RunDir, state: Callable[[int], CoordinatorState | None], *, status_dir: str = "",
    ) -> None:
        self._run_dir, self._state, self._status_dir = run_dir, state, status_dir
        self._beat = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        """Write it now, and from now on."""
        self.write()
        self._thread.start()

    def write(self) -> None:
        """Write it; that it cannot be written is no reason not to work."""
        with self._lock:
            self._beat += 1
            state = self._state(self._beat)
            if state is not None:
                announce(self._run_dir, state, self._status_dir)

    def stop(self) -> None:
        """Write it no more by itself."""
        self._ended.set()

    def _run(self) -> None:
        while not self._ended.wait(RENEW_S):
            self.write()
