"""``hpctrain evaluate`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.cli.evaluate_ask import read_request
from hpctrain.cli.evaluate_job import command, recipe_text, suite_text
from hpctrain.cli.main import invoke
from hpctrain.recipe.overlay import merge_layers
from hpctrain.recipe.parse import parse_document
from hpctrain.recipe.schema_method import Suite
from hpctrain.recipe.suites import parse_suite
from hpctrain.recipe.validate import validate
from tests.unit.evaluate import tiny

OPTIONS: dict[str, Any] = {
    "compare": None, "no_compare": False, "limit": None, "max_new_tokens": None, "sequence_length": None, "batch_size": 16,
    "device": "auto", "precision": "auto", "spread": False, "trust_remote_code": False, "judge": None, "judge_model": None,
    "judge_key_env": None, "rubric": None, "folder": None, "page": None, "show": False, "suites": (),
}


@pytest.fixture(autouse=True)
def _own_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCTRAIN_RUNS_DIR", str(tmp_path / "runs"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model to which all tokens are alike."""
    return tiny.causal(tmp_path_factory.mktemp("models") / "uniform", uniform=True)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A file of texts with a blank in its name."""
    file = tmp_path / "some texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"text {number}"}) + "\n" for number in range(3)))
    return file


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out))


def test_a_model_and_a_file(model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One model on one file: JSON on standard output, results and page where they are wanted, exit code 0."""
    folder = tmp_path / "results"
    arguments = ["evaluate", str(model), "--suite", f"perplexity:{texts}", "--device", "cpu", "--to", str(folder)]

    assert 0 == invoke([*arguments, "--html", str(tmp_path / "page.html"), "-o", "json"])
    (found,) = _json(capsys)["evaluation"]["models"]
    assert 258.0 == pytest.approx(found["suites"][0]["measures"][0]["value"], rel=1e-4)
    assert "perplexity" in (tmp_path / "page.html").read_text()
    assert 0 == invoke(["evaluate", str(model), "--show", "--to", str(folder)])
    assert "perplexity (-)" in capsys.readouterr().out


def test_a_suite_that_fails_gives_its_exit_code(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    """What could be measured is shown, and the exit code is that of the first suite that could not."""
    code = invoke(["evaluate", str(model), "--device", "cpu", "--suite", f"accuracy:{tmp_path}/lost.jsonl",
                   "--suite", f"perplexity:{texts}"])

    assert 4 == code
    out = capsys.readouterr().out
    assert "accuracy of uniform: not measured" in out
    assert "258" in out


@pytest.mark.parametrize(("arguments", "code", "words"), [
    (["nowhere", "--suite", "perplexity"], 4, "no run or job 'nowhere'"),
    (["MODEL"], 2, "nothing says what to measure"),
    (["MODEL", "--suite", "perplexiti"], 2, "did you mean 'perplexity'"),
    (["MODEL", "--suite", "judge:x.jsonl"], 2, "needs a judge"),
    (["MODEL", "--suite", "judge:x.jsonl,pairwise=true", "--judge", "http://h/v1", "--judge-model", "m"], 2, "two models"),
    (["MODEL", "--suite", "judge:x.jsonl", "--judge", "http://127.0.0.1:1/v1"], 2, "--judge-model"),
    (["EMPTY", "--suite", "perplexity"], 4, "neither a model"),
    (["MODEL", "--suite", "perplexity:x.txt", "--compare", "EMPTY"], 4, "neither a model"),
    (["MODEL", "--show"], 2, "--show needs a run"),
])
def test_mistakes(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str,
) -> None:
    """A mistake is one message with its exit code, before anything is loaded."""
    named = {"MODEL": str(model), "EMPTY": str(tmp_path)}

    assert code == invoke(["evaluate", *(named.get(word, word) for word in arguments)])
    assert words in capsys.readouterr().err


def test_dry_run(model: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is measured, and what would be is shown."""
    assert 0 == invoke(["evaluate", str(model), "--suite", f"perplexity:{texts}", "--limit", "2", "--dry-run", "-o", "json"])
    plan = _json(capsys)["plan"]

    assert [str(model)] == [one["path"] for one in plan["models"]]
    assert [("perplexity", 2)] == [(suite["kind"], suite["limit"]) for suite in plan["suites"]]


def test_the_job_is_the_same_command(model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of a job is valid, and its command asks for the same suites with absolute paths."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics.py").write_text("def f(model, rows):\n    return 1\n")
    suites = (f"perplexity:{texts.name}", "function:metrics.py:f")
    asked = read_request({**OPTIONS, "model": str(model), "limit": 5, "suites": suites})

    recipe = validate(merge_layers([parse_document(recipe_text(asked), "job.yaml")]), "job.yaml")
    words = recipe.command or []
    again = [parse_suite(words[index + 1]) for index, word in enumerate(words) if word == "--suite"]

    assert words[1:5] == ["-m", "hpctrain", "evaluate", str(model)]
    assert [str(texts)] == again[0].paths
    assert f"{tmp_path}/metrics.py:f" == again[1].function
    assert [5, 5] == [suite.limit for suite in again]
    assert command(asked) == words


def test_suites_as_text() -> None:
    """A suite written for a job is read back as it was."""
    suite = Suite(kind="judge", paths=["/a b.jsonl"], pairwise=True, limit=3, name="x")

    assert suite == parse_suite(suite_text(suite.model_dump(exclude_defaults=True)))


def test_submit_shows_the_script(
    model: Path, texts: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """--submit --dry-run prints the batch script of the job, also where there is no Slurm."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("HPCTRAIN_STATE_DIR", str(texts.parent / "state"))
    assert 0 == invoke(["evaluate", str(model), "--suite", f"perplexity:{texts}", "--submit", "--dry-run"])

    shown = capsys.readouterr()
    assert shown.out.startswith("#!")
    assert "would submit evaluate-uniform" in shown.err
