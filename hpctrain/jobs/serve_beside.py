"""Run a server of answers until the run that it serves has ended (entry point of the job that holds the server).

    python -m hpctrain.jobs.serve_beside PROGRAM [ARGUMENT...]

``--host`` and ``--port`` are added: this node's address on the run's interface, and a free port. Where the server is
stands in the run directory of the run that it serves, which is named in ``serves.json`` of this one.

The server is begun anew each time that the other run's ranks are: they join a group with it over which the weights travel,
and one that has lost its other half may hang.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpctrain import process
from hpctrain.clock import SystemClock
from hpctrain.errors import HpctrainError
from hpctrain.files import read_json_object, write_json_atomic
from hpctrain.ids import JobId
from hpctrain.jobs.find import read_run
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.poll import Poller
from hpctrain.network import HeldPort
from hpctrain.settings_file import load_settings
from hpctrain.slurm.connect import connect
from hpctrain.train.environment import RUN_DIR

LOOK_S, FIRST_WORD_S, END_S = 2.0, 600.0, 30.0
"""Between two looks; until the run that is served must be there and alive; for the server to end when it is told to."""


def main(server: Sequence[str]) -> int:
    """Serve; the server's exit code, or 0 once the run that it serves has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    served = Served(RunDir(Path(os.environ[RUN_DIR])))
    while True:
        seen = served.incarnation()
        host, number, running = _begin(server, os.environ["MASTER_ADDR"])
        try:
            while running.poll() is None and served.incarnation() == seen:
                served.tell(f"http://[{host}]:{number}" if ":" in host else f"http://{host}:{number}", seen)
                if served.has_ended():
                    return 0
                time.sleep(LOOK_S)
            if running.poll() is not None:
                _say(f"the server has ended with exit code {running.returncode}")
                return running.returncode or 1
            _say("the ranks that it answered were started again: so is the server")
        finally:
            _end(running)


def _begin(server: Sequence[str], host: str) -> tuple[str, int, Any]:
    """Start the server on a free port, in our process group: who ends this rank ends the server, too."""
    port = HeldPort()
    port.close()
    _say(f"server at {host}, port {port.port}")
    env = {**os.environ, "VLLM_HOST_IP": host}
    return host, port.port, process.start([*server, "--host", host, "--port", str(port.port)], new_session=False, env=env)


class Served:
    """The run that is served.

    Args:
        own: the run directory of the server.
    """

    def __init__(self, own: RunDir) -> None:
        self._own, self._began, self._lived = own, time.monotonic(), False
        self._run: RunDir | None = None
        self._job: JobId | None = None
        self._poller: Poller | None = None

    def tell(self, url: str, incarnation: int) -> None:
        """Write down where the server is and for which start of the ranks it was begun, if that is not there yet."""
        run, told = self._dir(), {"url": url, "incarnation": incarnation}
        if run is not None and run.control.is_dir() and read_json_object(run.answers) != told:
            write_json_atomic(run.answers, told, durable=False)

    def incarnation(self) -> int:
        """The newest start of its ranks; 0 before the first."""
        run = self._dir()
        number = read_json_object(run.control / "incarnation.json").get("incarnation") if run is not None else 0
        return max(0, number) if isinstance(number, int) else 0

    def has_ended(self) -> bool:
        """It has ended since this server was started, or it does not come; when nobody knows, it goes on."""
        ended = self._is_over()
        if ended is None:
            return False
        self._lived = self._lived or not ended
        return ended and (self._lived or time.monotonic() > self._began + FIRST_WORD_S)

    def _is_over(self) -> bool | None:
        place = self._dir()
        if place is None or not place.path.is_dir():
            return True  # never named, or removed
        run = read_run(place.path)
        if run is None:
            return None
        try:
            if self._poller is None or run.job_id != self._job:
                clock = SystemClock()
                self._job = run.job_id
                self._poller = Poller(run, connect(load_settings(), clock=clock, long_lived=True), clock, lift_delay=False)
            return self._poller.status().final
        except HpctrainError:
            return None  # Slurm does not answer: that is no end

    def _dir(self) -> RunDir | None:
        if self._run is None:
            place = read_json_object(self._own.serves).get("run_dir")
            self._run = RunDir(Path(place)) if isinstance(place, str) else None
        return self._run


def _end(running: Any) -> None:
    if running.poll() is None:
        running.terminate()
        try:
            running.wait(END_S)
        except Exception:  # noqa: BLE001 - subprocess's own class, which belongs to process.py
            running.kill()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - the rank's log


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
