"""The trainer's part in lineage: what only a process that trains can know (service).

Rank 0 writes, from a thread of its own that waits until training is under way: reading weights to hash them takes minutes,
and must hold up neither the first step nor a recovery. hashlib and file reads leave the interpreter free.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock, SystemClock
from hpctrain.data.identity import data_hashes
from hpctrain.errors import HpctrainError, MissingDependencyError
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage_write import gather
from hpctrain.recipe.schema import Data, Recipe
from hpctrain.train.environment import EXIT_DONE, EXIT_REWIND, EXIT_STOPPED, RankEnvironment
from hpctrain.train.mlflow_process import MlflowProcess

DELAY_S = 3.0
"""After a start: by then it trains again, or is so short that the thread is not waited for."""
LONGEST_WAIT_S = 30.0
"""For the thread, at the end of a run that was shorter than the hashing of its base model."""
_one_at_a_time = threading.Lock()
_done: set[Path] = set()
"""Run directories whose record this process has completed."""


@contextmanager
def lineage_kept(recipe: Recipe, run_dir: RunDir, environment: RankEnvironment) -> Iterator[LineageLog]:
    """Around a start of the trainer; tell :meth:`LineageLog.ended` its exit code. Does nothing on ranks but the first.

    Raises:
        MissingDependencyError: the recipe wants MLflow, which is not installed.
    """
    log = LineageLog(recipe, run_dir)
    if environment.rank == 0:
        log.start()
    try:
        yield log
    finally:
        if environment.rank == 0:
            log.close()


class LineageLog:
    """Keeps the record of one start, and MLflow informed where the recipe says so."""

    def __init__(self, recipe: Recipe, run_dir: RunDir, clock: Clock | None = None) -> None:
        self._recipe, self._run_dir = recipe, run_dir
        self._clock: Clock = clock or SystemClock()
        self._end, self._code = threading.Event(), -1
        self._thread = threading.Thread(target=self._work, name="hpctrain-lineage", daemon=True)
        self._mlflow: MlflowProcess | None = None

    def start(self) -> None:
        """Begin; returns at once.

        Raises:
            MissingDependencyError: see :func:`lineage_kept`.
        """
        if self._recipe.tracking.mlflow:
            if importlib.util.find_spec("mlflow") is None:
                raise MissingDependencyError(
                    "tracking.mlflow is on, but MLflow is not installed", hint="pip install mlflow-skinny"
                )
            self._mlflow = MlflowProcess(self._run_dir)
        self._thread.start()

    def ended(self, code: int) -> None:
        """The trainer ends with this exit code; see :mod:`hpctrain.train.environment`."""
        self._code = code

    def close(self) -> None:
        """Bring the record up to date; bounded in time, whatever MLflow's server does."""
        self._end.set()
        self._thread.join(LONGEST_WAIT_S if self._code == EXIT_DONE else 0.0)
        if self._mlflow is not None:
            goes_on = self._code in (EXIT_STOPPED, EXIT_REWIND)
            behind = self._mlflow.finish("" if goes_on else "finished" if self._code == EXIT_DONE else "failed")
            if behind:
                print(f"warning: {behind}", file=sys.stderr, flush=True)  # noqa: T201 - the trainer's log

    def _work(self) -> None:
        self._end.wait(DELAY_S)
        gather_now(self._recipe, self._run_dir, self._clock)


def gather_now(recipe: Recipe, run_dir: RunDir, clock: Clock | None = None) -> None:
    """Complete the run's record, once in a process; a second caller waits for the first. Trouble stops no training."""
    with _one_at_a_time:
        if run_dir.path in _done:
            return
        try:
            gather(
                run_dir, recipe.model_dump(mode="json"), time_s=(clock or SystemClock()).time(), facts=surroundings(),
                made_sha256=made_hash(recipe.data) if recipe.data is not None else "",
            )
            _done.add(run_dir.path)
        except (HpctrainError, OSError) as error:
            print(f"warning: lineage.json was not written: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the log


def surroundings() -> dict[str, Any]:
    """What torch says about where it runs; starts nothing that does not run already."""
    torch = sys.modules.get("torch")
    if torch is None:
        return {}
    facts: dict[str, Any] = {"torch": str(torch.__version__), "cuda": torch.version.cuda, "device": "cpu"}
    if torch.cuda.is_initialized():
        facts |= {"device": "cuda", "gpu": torch.cuda.get_device_name(), "gpus_seen": torch.cuda.device_count()}
    return facts


def made_hash(data: Data) -> str:
    """SHA-256 of data that is made from the running Python: it changes with Python's version; "" for all other data."""
    return "" if data.source in ("files", "huggingface") else str(data_hashes(data)["sha256"])
