"""What suites ask of rows; results, tables and pages as values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpctrain.evaluate import examples
from hpctrain.evaluate.measures import HIGHER, LOWER, Measure
from hpctrain.evaluate.page import render as page
from hpctrain.evaluate.results import Evaluation, ModelResult, SuiteResult, compare
from hpctrain.evaluate.rows import RowSource
from hpctrain.evaluate.table import render
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.schema_method import Suite

USER, ASSISTANT = {"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}


def test_formats_of_rows() -> None:
    """Text, completions and conversations give what is predicted, what is asked, and what is right."""
    chat = {"messages": [USER, ASSISTANT, USER, ASSISTANT]}

    assert [("", "words")] == [(pair.before, pair.after) for pair in examples.predicted({"text": "words"})]
    assert [([USER], [ASSISTANT]), ([USER, ASSISTANT, USER], [ASSISTANT])] == [
        (pair.before, pair.after) for pair in examples.predicted(chat)]
    assert [("2 + 2 =", " 4")] == [
        (pair.before, pair.after) for pair in examples.predicted({"prompt": "2 + 2 =", "completion": " 4"})]
    assert [USER, ASSISTANT, USER] == examples.prompt_of(chat)
    assert ["4"] == examples.answers_of(chat)
    assert ["4", "four"] == examples.answers_of({"answer": ["4", "four"]})
    wrong = {**ASSISTANT, "content": "5"}
    chosen, rejected = examples.preference_of({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [wrong]})
    assert ("4", "5") == (examples.said_text(chosen.after), examples.said_text(rejected.after))
    assert "2 + 2?" == examples.prompt_text([USER])
    assert [{"name": "f"}] == examples.tools_of({"tools": '[{"name": "f"}]'})


@pytest.mark.parametrize(("ask", "row"), [
    (examples.predicted, {"messages": [USER]}), (examples.prompt_of, {"text": "x"}), (examples.answers_of, {"prompt": "x"}),
    (examples.preference_of, {"prompt": "x", "chosen": "y"}), (examples.choices_of, {"choices": ["a"], "answer": "a"}),
    (examples.choices_of, {"choices": ["a", "b"], "answer": "c"}),
    (examples.choices_of, {"choices": ["a", "b"], "answer": 2}),
])
def test_rows_that_lack_something(ask: object, row: dict[str, object]) -> None:
    """A row without what a suite needs is refused in words."""
    assert callable(ask)
    with pytest.raises(ValueError, match=r"has|choices|answer"):
        ask(row)


def test_what_was_kept_out_is_read_once(tmp_path: Path) -> None:
    """The second suite gets its rows, as many as it asks for, although the file is gone; so do suites on text."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": str(number), "completion": "x"}) + "\n" for number in range(20)))
    data = {"source": "files", "paths": [str(file)], "validation_fraction": 0.2}
    source = RowSource(Recipe.model_validate({"version": 1, "name": "t", "method": "sft", "data": data}))
    assert ["16", "17", "18", "19"] == [row.values["prompt"] for row in source.rows_of(Suite(kind="perplexity"))]
    file.unlink()
    assert ["16", "17"] == [row.values["prompt"] for row in source.rows_of(Suite(kind="accuracy", limit=2))]

    asked: list[str] = []
    texts = RowSource(Recipe.model_validate({"version": 1, "name": "t", "method": "cpt", "data": data}),
                      lambda: asked.append("once") or ["words"])
    assert [["words"]] * 2 == [[row.values["text"] for row in texts.rows_of(Suite(kind=kind))]
                               for kind in ("perplexity", "function")]
    assert ["once"] == asked


def _evaluation() -> Evaluation:
    def result(value: float, influence: tuple[float, ...], seconds: float, answer: str) -> SuiteResult:
        measures = (Measure("accuracy", value, HIGHER, 0.02, 100, influence), Measure("tokens", value * 9, ""))
        sample = {"prompt": "<b>2 + 2?</b>", "answer": answer}
        return SuiteResult("questions", "accuracy", "k", measures, 100, seconds, samples=(sample,))

    loss = SuiteResult("text", "perplexity", "k2", (Measure("perplexity", 12.0, LOWER, 0.1, 9),), 9, 1.0)
    failed = SuiteResult("judged", "judge", "", problem="the judge does not answer", exit_code=19)
    before = ModelResult("before", "/models/base", 1_000_000, (result(0.5, (0.01, -0.01), 2.0, "5"), loss))
    after = ModelResult("after", "/models/tuned", 1_000_000, (result(0.75, (0.01, -0.011), 3.0, "4 & more"), loss, failed))
    return Evaluation("run <1>", (before, after), 0.0, "0.1")


def test_comparison() -> None:
    """Changes have a direction and a verdict; what has no better direction has none."""
    lines = {(line.suite, line.measure): line for line in compare(_evaluation())}

    assert (0.25, "better") == (lines["questions", "accuracy"].change, lines["questions", "accuracy"].verdict)
    assert "" == lines["questions", "tokens"].verdict
    assert "same" == lines["text", "perplexity"].verdict


@pytest.mark.parametrize(("was", "is_now", "better", "verdict"), [
    (10.0, 8.0, LOWER, "better"), (8.0, 10.0, LOWER, "worse"), (8.0, 8.1, LOWER, "unsure"), (8.0, 10.0, HIGHER, "better"),
])
def test_verdicts(was: float, is_now: float, better: str, verdict: str) -> None:
    """Lower is better for losses, and a change within two standard errors is not told from chance."""
    models = tuple(ModelResult(label, "", 0, (SuiteResult("s", "k", "", (Measure("m", value, better, 0.1),)),))
                   for label, value in (("before", was), ("after", is_now)))

    assert [verdict] == [line.verdict for line in compare(Evaluation("x", models))]


def test_results_survive_json() -> None:
    """evaluation.json read back is what was written, and other documents are refused."""
    found = _evaluation()

    assert found == Evaluation.from_json(json.loads(json.dumps(found.to_json())))
    for other in ({}, {"version": 99}, {"version": 1, "name": "x", "models": [{}]}, []):
        with pytest.raises(ValueError, match="not an evaluation"):
            Evaluation.from_json(other)  # type: ignore[arg-type]


def test_table() -> None:
    """A line for each measure, a column for each model, the change and its verdict, and what failed."""
    lines = render(_evaluation()).splitlines()

    assert ["SUITE", "MEASURE", "BEFORE", "AFTER", "CHANGE"] == lines[0].split()
    assert "accuracy (+)" in lines[1]
    assert "0.5 ± 0.02" in lines[1]
    assert lines[1].endswith("+0.25  better")
    assert "judged of after: not measured: the judge does not answer" == lines[-1]
    assert all(len(line) <= 60 for line in render(_evaluation(), width=60).splitlines()[:-1])
    assert "\x1b[32m" in render(_evaluation(), colour=True)


def test_page_holds_everything_in_itself() -> None:
    """The page escapes what models and people wrote, and loads nothing from anywhere."""
    text = page(_evaluation())

    assert "run &lt;1&gt;" in text
    assert "<b>2 + 2" not in text
    assert "&lt;b&gt;2 + 2?&lt;/b&gt;" in text
    assert "4 &amp; more" in text
    assert "the judge does not answer" in text
    assert "default-src 'none'" in text
    assert not any(word in text for word in ("<script", "http://", "https://", "<link", "<img"))


def test_page_of_one_model() -> None:
    """One model alone has no column of changes."""
    found = _evaluation()
    text = page(Evaluation(found.name, found.models[1:]))

    assert "change" not in text.split("</thead>")[0].split("<h2>Results</h2>")[1]
    assert "2 + 2?" in text
