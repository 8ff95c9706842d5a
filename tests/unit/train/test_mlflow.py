"""MLflow gets what the run directory holds: once, completely, and without the trainer's noticing."""

from __future__ import annotations

import http.server
import importlib.util
import json
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import HpctrainError
from hpctrain.files import append_jsonl, read_json_object
from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.lineage_read import read_record
from hpctrain.train import mlflow_plan as plan
from hpctrain.train.mlflow_log import MlflowWriter, tracking_uri, write_all
from hpctrain.train.mlflow_process import MlflowProcess
from tests.unit.jobs.lineage_runs import START, make_run, values

needs_mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs mlflow-skinny")


def test_recipe_becomes_parameters() -> None:
    """Values stand under their path, lists as JSON, long ones cut, and what is unset or about people not at all."""
    recipe = {"name": "x", "workdir": "/w", "method": "sft", "env": {"A": "b"}, "judge": None,
              "training": {"steps": 5, "optimizer": {"betas": [0.9, 0.95]}}, "data": {"paths": ["/" + "p" * 600]}}
    found = plan.params(recipe)

    assert found | {"data.paths": ""} == {"method": "sft", "training.steps": "5", "training.optimizer.betas": "[0.9, 0.95]",
                                          "data.paths": ""}
    assert len(found["data.paths"]) == plan.LONGEST_VALUE
    assert plan.params({"a[0]": {"b%c": 1}}) == {"a_0_.b_c": "1"}


def test_steps_become_numbers() -> None:
    """Each number of a line stands at its step and time; a loss that was no number is one; torn lines are nothing."""
    line = {"step": 3, "time": 2.5, "incarnation": 1, "loss": None, "grad_norm": 2, "ok": True, "word": "x"}
    found = plan.step_values(line)
    assert [(one.key, one.time_ms, one.step) for one in found] == [("loss", 2500, 3), ("grad_norm", 2500, 3)]
    assert math.isnan(found[0].value) and plan.step_values({}) == plan.step_values({"step": "3", "time": 1}) == []
    assert [len(batch) for batch in plan.batches(found * 750)] == [1000, 500]


def test_store_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe's server or directory comes first, then MLflow's own variable, then files beside the runs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = RunDir(tmp_path / "runs" / "a")
    assert tracking_uri({}, run) == (tmp_path / "runs" / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri({"tracking": {"mlflow_uri": None}}, run) == "http://server:5000"
    recipe = {"workdir": str(tmp_path), "tracking": {"mlflow_uri": "store"}}
    assert tracking_uri(recipe, run) == (tmp_path / "store").as_uri()
    assert tracking_uri({"tracking": {"mlflow_uri": "databricks"}}, run) == "databricks"


@needs_mlflow
def test_whole_run_in_a_store_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters, every step, tags, data set and artifacts arrive; a later start goes on where the earlier one ended."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    base = make_run(tmp_path, "base-1", values("pretrain", training={"steps": 5}), weights=b"one")
    told = write_all(base)
    child = make_run(tmp_path, "sft-1", values(model={"path": str(base.model)}), weights=b"two", job_id=2)
    write_all(child)
    append_jsonl(base.metrics, {"step": 6, "time": START + 6, "loss": 1.25, "reward": 0.5})
    again = write_all(base)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    found = client.get_run(told["run_id"])
    assert again["run_id"] == told["run_id"] and again["complete"] and found.info.status == "FINISHED"
    assert found.data.params["training.steps"] == "5" and found.data.params["method"] == "pretrain"
    losses = client.get_metric_history(told["run_id"], "loss")
    assert sorted(point.step for point in losses) == [1, 2, 3, 4, 5, 6] and found.data.metrics["reward"] == 0.5
    record = read_record(base.path) or {}
    assert found.data.tags["hpctrain.model_sha256"] == record["outputs"]["model"]["sha256"]
    (data,) = found.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("python-docs", "d" * 36)
    assert "lineage.json" in [item.path for item in client.list_artifacts(told["run_id"])]
    below = client.get_run(read_json_object(child.mlflow)["run_id"])
    assert below.data.tags["mlflow.parentRunId"] == told["run_id"] and below.data.tags["hpctrain.parent_run"] == "base-1"


@needs_mlflow
def test_deleted_run_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where somebody has removed the run from MLflow, all of it is written to a new one."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = make_run(tmp_path, "base-1", values("pretrain"), weights=b"one")
    first = write_all(run)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    client.delete_run(first["run_id"])
    second = write_all(run)
    assert second["run_id"] != first["run_id"] and len(client.get_metric_history(second["run_id"], "loss")) == 5


class Silent(http.server.BaseHTTPRequestHandler):
    """A server that fails every request, and counts them."""

    def do_POST(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_error(503)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def failing_server() -> Iterator[Any]:
    """Its address is ``url``; requests so far are ``asked``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.asked = 0  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@needs_mlflow
def test_server_that_fails_is_told_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_server: Any) -> None:
    """The error is one line without credentials and is kept; when MLflow answers again, nothing is missing."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run = make_run(tmp_path, "base-1", values("pretrain"), weights=b"one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", failing_server.url.replace("//", "//user:secret@"))
    with pytest.raises(HpctrainError, match="MLflow does not take it") as caught:
        write_all(run)
    assert failing_server.asked >= 1 and "\n" not in str(caught.value)
    assert "secret" not in str(caught.value) and "secret" not in run.mlflow.read_text()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert write_all(run)["complete"]


@needs_mlflow
def test_process_beside_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes what comes while the trainer runs, and has all of it when the trainer ends."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("hpctrain.train.mlflow_process.AT_THE_END_S", 120.0)  # it may be a busy machine
    run = make_run(tmp_path, "live-1", values("pretrain"))
    beside = MlflowProcess(run)
    deadline = time.monotonic() + 120
    while read_json_object(run.mlflow).get("offset") != run.metrics.stat().st_size:
        assert time.monotonic() < deadline, (run.logs / "mlflow.log").read_text()
        time.sleep(0.1)
    append_jsonl(run.metrics, {"step": 6, "time": START, "loss": 1.0})

    assert beside.finish("finished") == ""
    told = read_json_object(run.mlflow)
    assert told["complete"] and told["offset"] == run.metrics.stat().st_size


def test_end_of_training_does_not_wait_for_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that does not come to its end is left behind after a bounded time, with the command that makes up for it."""
    from hpctrain import process
    from hpctrain.train import mlflow_process

    run = make_run(tmp_path, "live-1", values("pretrain"))
    real = process.start
    monkeypatch.setattr(mlflow_process, "AT_THE_END_S", 0.2)
    monkeypatch.setattr(mlflow_process.process, "start", lambda _argv, **more: real(["sleep", "60"], **more))
    beside = MlflowProcess(run)
    begun = time.monotonic()
    said = beside.finish("finished")

    assert time.monotonic() - begun < 30 and "hpctrain lineage live-1 --mlflow" in said


@needs_mlflow
def test_rewritten_offset_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line at the end of the metrics waits until the rest of it is there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = make_run(tmp_path, "torn-1", values("pretrain"), weights=b"w")
    whole = run.metrics.stat().st_size
    with run.metrics.open("a") as file:
        file.write('{"step": 6, "ti')
    writer = MlflowWriter(run)
    writer.sync()
    assert json.loads(run.mlflow.read_bytes())["offset"] == whole
    with run.metrics.open("a") as file:
        file.write('me": 1.0, "loss": 2.0}\n')
    writer.sync()
    assert read_json_object(run.mlflow)["offset"] == run.metrics.stat().st_size
