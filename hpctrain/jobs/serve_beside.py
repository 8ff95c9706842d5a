"""Run a server of answers until the run that it serves has ended (entry point of the job that holds the server).

    python -m hpctrain.jobs.serve_beside PROGRAM [ARGUMENT...]

``--host`` and ``--port`` are added: this node's address on the run's interface, and a free port. Where the server is
stands in the run directory of the run that it serves, which is named in ``serves.json`` of this one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.clock import SystemClock
from hpctrain.errors import HpctrainError
from hpctrain.files import write_json_atomic
from hpctrain.jobs.find import Run, read_run
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.poll import Poller
from hpctrain.network import HeldPort
from hpctrain.train.environment import RUN_DIR

LOOK_S, FIRST_WORD_S, END_S = 2.0, 600.0, 30.0
"""Between two looks; until the run that is served has to be named; for the server to end when it is told to."""


def main(server: Sequence[str]) -> int:
    """Serve; the server's exit code, or 0 once the run that it serves has ended."""
    own, port = RunDir(Path(os.environ[RUN_DIR])), HeldPort()
    host, number = os.environ["MASTER_ADDR"], port.port
    port.close()
    print(f"server at {host}, port {number}", flush=True)  # noqa: T201 - the job's log
    # In our process group: who ends this rank ends the server, too.
    running = process.start([*server, "--host", host, "--port", str(number)], new_session=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        ended = _Served(own, f"http://[{host}]:{number}" if ":" in host else f"http://{host}:{number}")
        while running.poll() is None:
            if ended():
                return 0
            time.sleep(LOOK_S)
        print(f"the server has ended with exit code {running.returncode}", flush=True)  # noqa: T201 - the job's log
        return running.returncode or 1
    finally:
        _end(running)


class _Served:
    """The run that is served; calling it says whether that one has ended, or was never named.

    Args:
        own: the run directory of the server.
        url: told to it once it is known.
    """

    def __init__(self, own: RunDir, url: str) -> None:
        self._own, self._url, self._started = own, url, time.monotonic()
        self._final: Callable[[], bool] | None = None

    def __call__(self) -> bool:
        if self._final is None:
            self._final = self._meet()
        if self._final is not None:
            return self._final()
        return time.monotonic() > self._started + FIRST_WORD_S

    def _meet(self) -> Callable[[], bool] | None:
        try:
            place = Path(json.loads(self._own.serves.read_bytes())["run_dir"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if not place.is_dir():
            return lambda: True
        run = read_run(place)
        if run is None:
            return None
        write_json_atomic(run.dir.answers, {"url": self._url}, durable=False)
        poller = _poller(run)

        def final() -> bool:
            try:
                return not place.is_dir() or poller.status().final
            except HpctrainError:
                return False  # Slurm does not answer: that is no end
        return final


def _poller(run: Run) -> Poller:
    """Looks at the run; where there is no Slurm (in a container), by what the run itself writes down."""
    from hpctrain.settings_file import load_settings
    from hpctrain.slurm.connect import connect

    clock, slurm = SystemClock(), None
    with contextlib.suppress(HpctrainError):
        slurm = connect(load_settings(), clock=clock, long_lived=True)
    return Poller(run, slurm, clock, lift_delay=False)


def _end(running: Any) -> None:
    if running.poll() is None:
        running.terminate()
        try:
            running.wait(END_S)
        except Exception:  # noqa: BLE001 - subprocess's own class, which belongs to process.py
            running.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
