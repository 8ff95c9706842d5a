"""The evaluation at the end of a run, on the ranks that trained, and of a finished run by its name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.train.ranks import WarmRanks, event_kinds, logs, make_recipe, metric_lines
from tests.train.tuning import modules, tuning_recipe

SUITES = {"suites": [{"kind": "perplexity"}]}


def _results(run_dir: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir / "evaluation.json").read_text()))


@pytest.mark.slow
def test_a_run_is_measured_at_its_end(trainers: WarmRanks, tmp_path: Path) -> None:
    """Two ranks measure the held-out text that the loop has measured; a continued run is measured before and after."""
    held_out = {"data__validation_fraction": 0.01, "training__steps": 6}
    first, again = tmp_path / "first", tmp_path / "again"
    assert [0, 0] == trainers.finish(first, make_recipe(evaluate=SUITES, **held_out), 2), logs(first)

    (model,) = _results(first)["models"]
    measured = model["suites"][0]["measures"][1]
    loss = metric_lines(first)[-1]["validation_loss"]
    assert "loss_per_token" == measured["name"]
    # Each block begins without the token before it, which costs a little more.
    assert loss * 0.98 < measured["value"] < loss * 1.1
    assert {"model.saved", "evaluation.finished"} <= set(event_kinds(first))
    assert (first / "evaluation.html").is_file()

    recipe = make_recipe(method="cpt", model={"path": str(first / "model")}, evaluate=SUITES, **held_out)
    assert [0, 0] == trainers.finish(again, recipe, 2), logs(again)
    before, after = (one["suites"][0]["measures"][0]["value"] for one in _results(again)["models"])
    assert before == pytest.approx(model["suites"][0]["measures"][0]["value"], rel=1e-4)
    assert after < before
    assert math.isfinite(after)


@pytest.mark.slow
def test_a_suite_that_fails_costs_nothing_of_the_training(trainers: WarmRanks, tmp_path: Path) -> None:
    """A missing file of a suite is an event with its reason; the run is done and its model is there."""
    suites = {"suites": [{"kind": "accuracy", "paths": [str(tmp_path / "lost.jsonl")]}]}

    recipe = make_recipe(evaluate=suites, training__steps=1)
    assert [0, 0] == trainers.finish(tmp_path / "run", recipe, 2), logs(tmp_path / "run")

    assert "evaluation.failed" in event_kinds(tmp_path / "run")
    assert "evaluation.finished" not in event_kinds(tmp_path / "run")
    assert (tmp_path / "run/model/model.safetensors").is_file()
    assert 4 == _results(tmp_path / "run")["models"][0]["suites"][0]["exit_code"]


@pytest.mark.slow
def test_a_tuned_adapter_is_measured_before_and_after(trainers: WarmRanks, tmp_path: Path) -> None:
    """A run with an adapter is measured on its own held-out pairs, and started once more it measures nothing anew."""
    pytest.importorskip("trl")
    run = tmp_path / "run"
    evaluate = {"suites": [{"kind": "preference"}, {"kind": "perplexity", "paths": [str(tmp_path / "text.txt")]}]}
    (tmp_path / "text.txt").write_text("some text")
    recipe = tuning_recipe("dpo", tmp_path, adapter={"rank": 4}, data={"validation_fraction": 0.1}, evaluate=evaluate)
    assert [0, 0] == trainers.finish(run, recipe, 2, modules=modules("dpo")), logs(run)

    first = _results(run)
    assert [("before", 2), ("after", 2)] == [(one["label"], len(one["suites"])) for one in first["models"]]
    assert ["accuracy", "accuracy_per_token", "margin", "moved_towards_better"] == [
        one["name"] for one in first["models"][1]["suites"][0]["measures"]]
    assert [] == [one["problem"] for model in first["models"] for one in model["suites"] if one["problem"]]
    assert [0, 0] == trainers.finish(run, recipe, 2, modules=modules("dpo")), logs(run)
    assert [one["suites"] for one in first["models"]] == [one["suites"] for one in _results(run)["models"]]
