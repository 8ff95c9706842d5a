"""Suites as typed on the command line, and in recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import RecipeError, UsageError
from hpctrain.recipe.check_evaluate import check_evaluate
from hpctrain.recipe.resolve import resolve
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Suite
from hpctrain.recipe.suites import parse_suite, unique_names, usual_suites


@pytest.mark.parametrize(("text", "values"), [
    ("perplexity", {"kind": "perplexity"}),
    ("perplexity:a.txt,b.txt", {"kind": "perplexity", "paths": ["a.txt", "b.txt"]}),
    ("accuracy:q.jsonl,limit=20,match=contains,name=maths", {
        "kind": "accuracy", "paths": ["q.jsonl"], "limit": 20, "match": "contains", "name": "maths"}),
    ("harness:hellaswag,arc_easy", {"kind": "harness", "tasks": ["hellaswag", "arc_easy"]}),
    ("function:metrics.py:rhymes,poems.jsonl", {
        "kind": "function", "function": "metrics.py:rhymes", "paths": ["poems.jsonl"]}),
    ("judge:paths=p.jsonl,pairwise=true", {"kind": "judge", "paths": ["p.jsonl"], "pairwise": True}),
    ("accuracy:samples=4,temperature=0.7", {"kind": "accuracy", "samples": 4, "temperature": 0.7}),
    ("perplexity:odd=name.txt", {"kind": "perplexity", "paths": ["odd=name.txt"]}),
])
def test_suites_are_read(text: str, values: dict[str, Any]) -> None:
    """Bare words are files, tasks or the function, and key=value sets what a recipe's suite may say."""
    assert Suite.model_validate(values) == parse_suite(text)


@pytest.mark.parametrize(("text", "words"), [
    ("perplexiti", "did you mean 'perplexity'"), ("harness", "needs tasks"), ("function", "needs function"),
    ("perplexity:pairwise=true", "belongs to kind 'judge'"), ("accuracy:limit=0", "limit"), ("accuracy:limit=many", "limit"),
    ("accuracy:limit=1,limit=2", "given twice"), ("accuracy:match=roughly", "match"), ("judge:match=exact", "'accuracy'"),
    ("perplexity:samples=4", "'accuracy' and 'reward'"), ("accuracy:temperature=0.7", "samples=4"),
])
def test_wrong_suites_are_refused(text: str, words: str) -> None:
    """What is wrong with a suite is said, with the suite as it was typed."""
    with pytest.raises(UsageError, match=words) as caught:
        parse_suite(text)

    assert text in str(caught.value)


def _recipe(**changes: Any) -> Recipe:
    values = {
        "version": 1, "name": "t", "method": "sft", "model": {"path": "/m"}, "training": {"steps": 1},
        "data": {"source": "arithmetic", "validation_fraction": 0.1}, **changes,
    }
    return Recipe.model_validate(values)


def _problems(suites: list[dict[str, Any]], **changes: Any) -> list[str]:
    recipe = _recipe(evaluate={"suites": suites, "before": changes.pop("before", True)}, **changes)
    return [problem.message for problem in check_evaluate(recipe)]


def test_suites_that_can_be_measured_pass() -> None:
    """Held-out rows, own files, a judge and rewards that are there are no problem."""
    judge = {"url": "http://127.0.0.1:1/v1", "model": "m"}
    suites = [{"kind": "perplexity"}, {"kind": "preference", "paths": ["/p.jsonl"]}, {"kind": "judge", "pairwise": True},
              {"kind": "harness", "tasks": ["piqa"]}, {"kind": "reward"}]

    assert [] == _problems(suites, judge=judge, rewards=[{"kind": "math"}])


@pytest.mark.parametrize(("suite", "changes", "words"), [
    ({"kind": "reward"}, {}, "there are none"),
    ({"kind": "harness"}, {}, "needs tasks"),
    ({"kind": "preference"}, {}, "needs pairs of answers"),
    ({"kind": "accuracy"}, {"method": "cpt", "data": {"source": "python-docs", "validation_fraction": 0.1}}, "'paths'"),
    ({"kind": "perplexity"}, {"data": {"source": "arithmetic"}}, "has no rows"),
    ({"kind": "perplexity"}, {"method": "reward"}, "a reward model writes nothing"),
    ({"kind": "judge", "pairwise": True}, {"before": False, "judge": {"url": "http://h/v1", "model": "m"}}, "before"),
    ({"kind": "perplexity", "tasks": ["x"]}, {}, "belongs to kind 'harness'"),
])
def test_suites_that_cannot_be_measured_are_told_before(suite: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    """What a suite of a recipe lacks is known before a GPU is held."""
    assert any(words in message for message in _problems([suite], **changes))


def test_files_of_suites_are_looked_for(tmp_path: Path) -> None:
    """Paths of suites are relative to the recipe, and a missing file or function is told before submission."""
    (tmp_path / "there.jsonl").write_text("")
    (tmp_path / "metrics.py").write_text("def known(model, rows): ...\n")
    (tmp_path / "recipe.yaml").write_text("""
version: 1
name: t
method: pretrain
model: {config: {model_type: llama, vocab_size: 258}}
data: {source: python-docs, validation_fraction: 0.1}
training: {steps: 1}
evaluate:
  suites:
    - {kind: accuracy, paths: [there.jsonl, lost.jsonl]}
    - {kind: function, function: "metrics.py:unknown"}
    - {kind: harness, tasks: [piqa, lost.yaml]}
""")

    with pytest.raises(RecipeError) as caught:
        resolve(str(tmp_path / "recipe.yaml"))

    text = str(caught.value)
    assert f"evaluate.suites[0].paths[1]: no such file or directory: {tmp_path}/lost.jsonl" in text
    assert "defines no 'unknown'; it has known" in text
    assert f"no such file: {tmp_path}/lost.yaml" in text
    assert "there.jsonl" not in text


def test_two_suites_of_one_name() -> None:
    """Names in the table are unique: a recipe has to say them, the command line numbers them."""
    suite = {"kind": "perplexity", "paths": ["/a.txt"]}

    assert any("two suites called" in message for message in _problems([suite, suite]))
    suites = [parse_suite(text) for text in ("perplexity", "perplexity:b.txt", "judge:name=x")]
    assert ["perplexity", "perplexity 2", "x"] == [one.name for one in unique_names(suites)]


@pytest.mark.parametrize(("method", "kind"), [
    ("sft", "perplexity"), ("dpo", "preference"), ("reward", "preference"), ("rlvr", "reward"), ("cpt", "perplexity"),
])
def test_usual_suites(method: str, kind: str) -> None:
    """A run that names no suite is measured by what its method is about."""
    assert [kind] == [suite.kind for suite in usual_suites(_recipe(method=method))]
