"""``run:NAME`` in a recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpctrain.errors import RecipeError
from hpctrain.recipe.resolve import resolve
from hpctrain.settings import Settings

LLAMA = {"model_type": "llama", "vocab_size": 258, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
         "num_attention_heads": 2}
RECIPE = """
version: 1
name: sft
method: sft
model: {path: "run:base"}
data: {source: docstring-questions, sequence_length: 64}
training: {steps: 1, global_batch_size: 1, precision: fp32}
resources: {nodes: 1}
"""


def run(runs: Path, name: str, *, finished: bool = True) -> Path:
    """A run as it lies on disk."""
    (runs / name).mkdir(parents=True)
    (runs / name / "run.json").write_text("{}")
    if finished:
        model = runs / name / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(LLAMA))
        (model / "model.safetensors").write_bytes(b"")
    return runs / name


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe that names the runs of another."""
    path = tmp_path / "sft.yaml"
    path.write_text(RECIPE)
    return str(path)


def path_of(recipe: str, runs: Path, *sets: str) -> tuple[str | None, tuple[str, ...]]:
    """The model that is trained, and what the user is told."""
    resolved = resolve(recipe, sets, Settings(str(runs)))
    assert resolved.recipe.model is not None
    return resolved.recipe.model.path, resolved.notes


def test_the_newest_finished_run_of_a_recipe_is_meant(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the recipe's name the newest run with a model is taken; it is said which, and that another is on its way."""
    monkeypatch.setattr("hpctrain.recipe.resolve.missing_files", lambda _: [])
    runs = tmp_path / "runs"
    for name in ("base-20260101-000000", "base-20260102-000000-9", "base-20260102-000000-10", "base-line-20270101-000000"):
        run(runs, name)
    run(runs, "base-20260103-000000", finished=False)

    path, notes = path_of(recipe, runs)

    assert path == str(runs / "base-20260102-000000-10" / "model")
    said = "model.path: run:base is the model of base-20260102-000000-10 (base-20260103-000000 is newer, but has none yet)"
    assert said in notes


def test_one_run_is_meant_by_its_name(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run's own name means that run, also where a newer one exists and when it comes from --set."""
    monkeypatch.setattr("hpctrain.recipe.resolve.missing_files", lambda _: [])
    runs = tmp_path / "runs"
    old = run(runs, "base-20260101-000000")
    run(runs, "base-20260102-000000")

    assert path_of(recipe, runs, f"model.path=run:{old.name}")[0] == str(old / "model")


@pytest.mark.parametrize(("there", "asked", "message", "advice"), [
    ("", "base", "no run 'base' in", "run that recipe first"),
    ("base-20260101-000000", "bsae", "no run 'bsae' in", "did you mean run:base?"),
    ("base-20260101-000000", "../base", "no run", "did you mean run:base"),
    ("other-20260101-000000", "", "no run '' in", "run that recipe first"),
])
def test_a_run_that_is_not_there_is_an_error(
    recipe: str, tmp_path: Path, there: str, asked: str, message: str, advice: str,
) -> None:
    """It says where it was written, that there is no such run, and what comes near."""
    runs = tmp_path / "runs"
    if there:
        run(runs, there)

    with pytest.raises(RecipeError) as raised:
        path_of(recipe, runs, f"model.path=run:{asked}")

    assert raised.value.message.startswith("model.path: ") and message in raised.value.message
    assert raised.value.where == "--set model.path"
    assert advice in (raised.value.advice or "")


def test_a_run_without_a_model_is_an_error(recipe: str, tmp_path: Path) -> None:
    """A run that has not finished is named, with the line that wants its model."""
    runs = tmp_path / "runs"
    run(runs, "base-20260101-000000", finished=False)

    with pytest.raises(RecipeError) as raised:
        path_of(recipe, runs)

    assert "run base-20260101-000000 has left no model yet" in raised.value.message
    assert raised.value.where == f"{recipe}:5"


def test_reward_models_may_be_named_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a list each item is looked at."""
    monkeypatch.setattr("hpctrain.recipe.resolve.missing_files", lambda _: [])
    runs = tmp_path / "runs"
    base, reward = run(runs, "base-20260101-000000"), run(runs, "reward-20260101-000000")
    path = tmp_path / "rlhf.yaml"
    text = RECIPE
    for old, new in (("od: sft", "od: rlhf"), ("docstring-questions", "arithmetic"), ("batch_size: 1", "batch_size: 8")):
        text = text.replace(old, new)
    rewards = 'rewards: [{kind: length, max_tokens: 3}, {kind: model, path: "run:reward"}]\n'
    path.write_text(text + "generation: {max_new_tokens: 8}\n" + rewards)

    resolved = resolve(str(path), (), Settings(str(runs)))

    assert resolved.recipe.model is not None and resolved.recipe.model.path == str(base / "model")
    assert resolved.recipe.rewards[1].path == str(reward / "model")
