"""Starts and ends the process that writes a run to MLflow (adapter over :mod:`hpctrain.process`).

MLflow lives in a process of its own, at the lowest priority: importing it takes seconds, a server may not answer for hours,
and the training must notice neither. What the process has to tell is in the run directory anyway, so nothing can fill up
and nothing is lost when it dies.
"""

from __future__ import annotations

import contextlib
import os
import sys

from hpctrain import process
from hpctrain.files import make_private_dir, read_json_object
from hpctrain.jobs.layout import RunDir

AT_THE_END_S = 10.0
"""How long the end of a training waits for it."""


class MlflowProcess:
    """The process; it ends by itself when the trainer is gone, however that came about.

    Args:
        run_dir: whose metrics and lineage it writes.
    """

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        make_private_dir(run_dir.logs)
        argv = [sys.executable, "-m", "hpctrain.train.mlflow_log", "--follow", str(run_dir.path)]
        with (run_dir.logs / "mlflow.log").open("ab") as log:
            self._process = process.start(argv, env=_environment(), stdin=process.PIPE, stdout=log, stderr=log)

    def finish(self, status: str) -> str:
        """Let it write what is left; wait for that at most :data:`AT_THE_END_S`, and only when all is done.

        Args:
            status: ``finished`` or ``failed``; "" where the run goes on in a later start, which must not be held up.

        Returns:
            What it could not write, in words; "" when all is written, or is not waited for.
        """
        with contextlib.suppress(OSError, ValueError):
            if self._process.stdin is not None:
                self._process.stdin.write((status or "goes on").encode() + b"\n")
                self._process.stdin.close()
        if status != "finished":
            return ""
        try:
            self._process.wait(AT_THE_END_S)
        except process.TimeoutExpired:
            process.kill_group(self._process)
            self._process.wait()
        told = read_json_object(self._run_dir.mlflow)
        if told.get("problem") or not told.get("complete"):
            why = told.get("problem") or "it did not get to the end in time"
            return f"MLflow has not been told everything ({why}); later: hpctrain lineage {self._run_dir.name} --mlflow"
        return ""


def _environment() -> dict[str, str]:
    """Ours, without what makes a process a rank."""
    left_out = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name not in left_out}
