"""``python -m hpctrain.train.mlflow_log RUN_DIR``: write a run to MLflow (adapter over ``mlflow``).

Everything is read from the run directory, and ``mlflow.json`` in it says how far MLflow has been told. With ``--follow`` new
lines are written as they come, until standard input closes; see :mod:`hpctrain.train.mlflow_process`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import select
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpctrain.errors import HpctrainError, MissingDependencyError, first_line
from hpctrain.files import make_private_dir, read_json_object, write_json_atomic
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage import Record, parent, without_user
from hpctrain.jobs.lineage_read import parsed, read_record
from hpctrain.train import mlflow_plan as plan

POLL_S = 2.0
LONGEST_PAUSE_S = 300.0
"""Between tries while the server does not answer."""
READ_BYTES = 1 << 20
"""Of metrics.jsonl at once."""
STORE = "mlruns"
"""The store of files beside the runs, where the recipe and MLFLOW_TRACKING_URI name no other."""
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "GIT_PYTHON_REFRESH": "quiet",
    # Files, where MLflow would rather have SQLite: many nodes write at once, and SQLite must not lie on a network's disk.
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}


def tracking_uri(recipe: Record, run_dir: RunDir) -> str:
    """Where MLflow keeps runs: as the recipe says, as MLFLOW_TRACKING_URI says, or files beside the run directories."""
    said = (recipe.get("tracking") or {}).get("mlflow_uri") or os.environ.get("MLFLOW_TRACKING_URI")
    if not said:
        return (run_dir.path.parent / STORE).absolute().as_uri()
    if "://" in said or said.startswith(("databricks", "file:")):
        return str(said)
    return (Path(recipe.get("workdir") or ".") / said).absolute().as_uri()


class MlflowWriter:
    """Tells MLflow what it does not know yet of one run. Every method may raise whatever MLflow raises.

    Raises:
        MissingDependencyError: MLflow is not installed.
    """

    def __init__(self, run_dir: RunDir) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MissingDependencyError(f"MLflow cannot be imported: {error}", hint="pip install mlflow-skinny") from None
        self._run_dir = run_dir
        self._recipe = read_json_object(run_dir.resolved_json)
        self._uri = tracking_uri(self._recipe, run_dir)
        self._client: Any = MlflowClient(tracking_uri=self._uri)
        self._told = read_json_object(run_dir.mlflow)
        if self._told.get("uri") != without_user(self._uri):
            self._told = {"uri": without_user(self._uri)}
        self._opened, self._lineage_time = False, 0

    def sync(self) -> None:
        """Write what has come since: the record, where it has changed, and metrics."""
        self._open()
        self._describe()
        while self._metrics():
            pass
        self._keep(problem="")

    def finish(self, status: str) -> None:
        """Write the rest; the run ends with this status, or goes on later where it is none of those that end it."""
        self._lineage_time = 0  # also what changes without it, such as the state
        self.sync()
        if status in _STATUS:
            self._evaluation()
            self._artifacts()
            self._client.set_terminated(self._run_id, _STATUS[status])
        self._keep(problem="", complete=True)

    def failed(self, error: BaseException) -> None:
        """Keep why MLflow was not told."""
        first = first_line(error)
        with contextlib.suppress(HpctrainError):
            self._keep(problem=without_user(first)[:500])

    @property
    def _run_id(self) -> str:
        return str(self._told["run_id"])

    def _open(self) -> None:
        if self._opened:
            return
        from mlflow.exceptions import MlflowException

        if self._told.get("run_id"):
            with contextlib.suppress(MlflowException):
                found = self._client.get_run(self._run_id)
                if found.info.lifecycle_stage == "active":
                    self._client.update_run(self._run_id, status="RUNNING")
                    self._opened = True
                    return
            self._client.search_experiments(max_results=1)  # raises where it is the server that is not there
        name = (self._recipe.get("tracking") or {}).get("mlflow_experiment") or "hpctrain"
        made = self._client.create_run(self._experiment(name), run_name=self._run_dir.name)
        self._told = {"uri": self._told["uri"], "experiment": name, "run_id": made.info.run_id, "offset": 0}
        self._keep()
        self._opened = True

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is not None and found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:
            found = self._client.get_experiment_by_name(name)  # another run was quicker
            if found is None:
                raise
            return str(found.experiment_id)

    def _describe(self) -> None:
        """Parameters once, tags whenever lineage.json has changed, data sets once they are hashed."""
        from mlflow.entities import Dataset, DatasetInput, Param, RunTag

        if not self._told.get("params"):
            values = [Param(key, value) for key, value in plan.params(self._recipe).items()]
            for begin in range(0, len(values), plan.BATCH_NAMES):
                self._client.log_batch(self._run_id, params=values[begin : begin + plan.BATCH_NAMES])
            self._keep(params=True)
        changed = self._run_dir.lineage.stat().st_mtime_ns if self._run_dir.lineage.exists() else 1
        if changed == self._lineage_time:
            return
        record = read_record(self._run_dir.path) or {}
        tags = plan.tags(record, self._parent(record))
        self._client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in tags.items()])
        if record.get("gathered") and not self._told.get("inputs"):
            data = [DatasetInput(Dataset(**values), []) for values in plan.data_sets(record)]
            if data:
                self._client.log_inputs(self._run_id, datasets=data)
            self._keep(inputs=True)
        self._lineage_time = changed

    def _parent(self, record: Record) -> str:
        """MLflow's id of the run whose model this one starts from, if the same MLflow has it."""
        base = parent(record)
        directory = ((base.get("record") or {}).get("run") or {}).get("directory") if base is not None else None
        told = read_json_object(RunDir(Path(directory)).mlflow) if isinstance(directory, str) else {}
        return str(told.get("run_id") or "") if told.get("uri") == self._told["uri"] else ""

    def _metrics(self) -> bool:
        """Write one piece of metrics.jsonl; whether there was one."""
        offset = int(self._told.get("offset") or 0)
        try:
            with self._run_dir.metrics.open("rb") as file:
                file.seek(offset)
                piece = file.read(READ_BYTES)
        except FileNotFoundError:
            return False
        whole = piece[: piece.rfind(b"\n") + 1]
        values = [value for line in whole.splitlines() for value in plan.step_values(parsed(line))]
        self._log(values)
        if whole:
            self._keep(offset=offset + len(whole))
        return bool(whole)

    def _log(self, values: list[plan.Value]) -> None:
        from mlflow.entities import Metric

        for batch in plan.batches(values):
            metrics = [Metric(value.key, value.value, value.time_ms, value.step) for value in batch]
            self._client.log_batch(self._run_id, metrics=metrics)

    def _evaluation(self) -> None:
        found = read_json_object(self._run_dir.evaluation)
        if found:
            step = int((read_record(self._run_dir.path) or {}).get("metrics", {}).get("step") or 0)
            self._log(plan.evaluation_values(found, time_ms=int(self._run_dir.evaluation.stat().st_mtime * 1000), step=step))

    def _artifacts(self) -> None:
        """Small files only: the weights stay where they are."""
        run = self._run_dir
        for path in (run.lineage, run.evaluation, run.resolved, run.model / "README.md"):
            if path.is_file():
                self._client.log_artifact(self._run_id, str(path))

    def _keep(self, **values: Any) -> None:
        self._told = {**self._told, "complete": False, **values, "time": round(time.time(), 3)}
        write_json_atomic(self._run_dir.mlflow, self._told, durable=False)


def follow(writer: MlflowWriter, words: int) -> int:
    """Write what comes until there is a word on a descriptor, or its other end is gone; then the rest.

    Returns:
        Exit code: 0, or 1 where something could not be written.
    """
    pause = 0.0
    while True:
        ready, _, _ = select.select([words], [], [], pause)
        try:
            if ready:
                writer.finish(os.read(words, 100).decode(errors="replace").strip())
                return 0
            writer.sync()
            pause = POLL_S
        except Exception as error:  # noqa: BLE001 - MLflow and what it stands on raise dozens of classes
            line = f"{time.strftime('%H:%M:%S')} {type(error).__name__}: {error}"
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - its log
            writer.failed(error)
            if ready:
                return 1
            pause = min(max(pause, POLL_S) * 2, LONGEST_PAUSE_S)


@contextlib.contextmanager
def only_one(run_dir: RunDir) -> Iterator[None]:
    """One writer per run: the one of a start that has just ended is let finish."""
    make_private_dir(run_dir.control)
    with (run_dir.control / "mlflow.lock").open("w") as file:
        with contextlib.suppress(OSError):  # a file system without locks: lines may then be told twice
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_all(run_dir: RunDir) -> Record:
    """Tell MLflow all that it has missed; what ``mlflow.json`` then says.

    Raises:
        MissingDependencyError: MLflow is not installed.
        HpctrainError: MLflow does not take it.
    """
    with only_one(run_dir):
        writer = MlflowWriter(run_dir)
        try:
            writer.finish(str((read_record(run_dir.path) or {}).get("state") or ""))
        except Exception as error:  # noqa: BLE001 - see follow()
            writer.failed(error)
            first = without_user(first_line(error))
            raise HpctrainError(f"MLflow does not take it: {first}", hint="nothing is lost; try again later") from None
    return read_json_object(run_dir.mlflow)


def main() -> int:
    """The program; see the module."""
    parser = argparse.ArgumentParser(prog="python -m hpctrain.train.mlflow_log", description="Write a run to MLflow.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--follow", action="store_true", help="go on until standard input closes")
    options = parser.parse_args()
    run_dir = RunDir(options.run_dir)
    if not options.follow:
        write_all(run_dir)
        return 0
    os.nice(19)
    with only_one(run_dir):
        return follow(MlflowWriter(run_dir), sys.stdin.fileno())


if __name__ == "__main__":
    sys.exit(main())
