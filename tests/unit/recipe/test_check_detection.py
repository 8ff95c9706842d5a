"""The section ``detection``: what it refuses, and what the plan makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from hpctrain.detect.settings import DetectionSettings
from hpctrain.errors import RecipeError
from hpctrain.recipe.check_detection import check_detection
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.resolve import resolve
from tests.unit.submit.builders import COMMAND, PRETRAIN, plan, recipe, write_recipe


def rule(**values: Any) -> dict[str, Any]:
    """A section with one rule."""
    return {"log_rules": [{"name": "a", "pattern": "loss=([0-9.]+)", **values}]}


@pytest.mark.parametrize(("section", "key", "message"), [
    (rule(), "detection.log_rules[0]", "asks for nothing"),
    (rule(pattern="(", fault_on_match=True), "detection.log_rules[0].pattern", "not a regular expression"),
    (rule(pattern="(a+)+$", fault_on_match=True), "detection.log_rules[0].pattern", "may take for ever"),
    (rule(stop_pattern="(x*)*y", recurs_within=5), "detection.log_rules[0].stop_pattern", "inside another one"),
    (rule(metric_threshold=1.0), "detection.log_rules[0]", "belong together"),
    (rule(operator="gt", recurs_within=5), "detection.log_rules[0]", "belong together"),
    (rule(pattern="loss", metric_threshold=1.0, operator="gt"), "detection.log_rules[0].pattern", "needs a group"),
    (rule(fault_on_match=True, recurs_within=5), "detection.log_rules[0].fault_on_match", "cannot have a deadline"),
    (rule(metric_data_points=2, recurs_within=5), "detection.log_rules[0].metric_data_points", "no effect"),
    (rule(stop_pattern="x", fault_on_match=True), "detection.log_rules[0].stop_pattern", "no effect"),
    (rule(action="swap", recurs_within=5), "detection.log_rules[0].action", "names a node's fault"),
    ({"log_rules": 2 * rule(recurs_within=5)["log_rules"]}, "detection.log_rules[1].name", "earlier rule"),
])
def test_what_cannot_work(section: dict[str, Any], key: str, message: str) -> None:
    """Each combination is refused once, at its own key."""
    found = check_detection(recipe(COMMAND, detection=section))

    assert [dotted(problem.path) for problem in found] == [key]
    assert message in found[0].message


def test_a_trainer_has_no_output_limit() -> None:
    """A key that only scripts can use is refused for our own trainer, which says in heartbeats what it does."""
    section = {"hang": {"output_limit": 600}}

    assert check_detection(recipe(COMMAND, detection=section)) == []
    assert [dotted(problem.path) for problem in check_detection(recipe(PRETRAIN, detection=section))] == [
        "detection.hang.output_limit"]


def test_an_error_names_file_and_line(tmp_path: Any) -> None:
    """The user is shown the line of the pattern that could stall the job."""
    path = write_recipe(tmp_path / "r.yaml", (
        "version: 1\nname: demo\ncommand: [train.py]\ndetection:\n  log_rules:\n"
        "    - name: bad\n      pattern: '(a|a)*(b+)+'\n      recurs_within: 5m\n"))

    with pytest.raises(RecipeError) as error:
        resolve(str(path))

    assert f"{path}:7" in str(error.value)
    assert "detection.log_rules[0].pattern" in str(error.value)


def test_the_plan_carries_the_section() -> None:
    """What the recipe says arrives at the detectors, through JSON, with durations in seconds."""
    made = plan(COMMAND, detection={"hang": {"at_least": "2m", "limits": {"save": "1h"}}, **rule(recurs_within="5m")})
    read = DetectionSettings.read(made.to_json()["detection"])

    assert read.hang.at_least == 120
    assert read.hang.limits["save"] == 3600
    assert read.hang.limits["step"] == "auto"
    assert [one.recurs_within for one in read.log_rules] == [300]


def test_a_plan_without_the_section_has_the_same_defaults() -> None:
    """The detectors' own defaults are those of the recipe, so that an older plan is watched in the same way."""
    assert DetectionSettings.read({}).loss == DetectionSettings.read(plan(COMMAND).detection).loss
    assert DetectionSettings.read({}).throughput == DetectionSettings.read(plan(COMMAND).detection).throughput
    assert DetectionSettings.read({}).node == DetectionSettings.read(plan(COMMAND).detection).node
