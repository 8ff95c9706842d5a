"""The card of a finished model says what it is and where it comes from, and nothing about the people and paths behind it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import StorageError
from hpctrain.jobs.lineage import MODEL_FILE
from hpctrain.jobs.lineage_read import read_record
from hpctrain.recipe.parse import parse_document
from hpctrain.recipe.schema import Recipe
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.train import model_card
from hpctrain.train.model_card import write_model_card
from hpctrain.train.model_card_text import render
from tests.unit.jobs.lineage_runs import chain, make_model, make_run, values

EVALUATION = {"version": 1, "models": [
    {"label": "before", "suites": [{"name": "perplexity", "measures": [{"name": "loss", "value": 3.25}]}]},
    {"label": "after", "suites": [{"name": "perplexity", "measures": [{"name": "loss", "value": 1.5}]}]},
]}


def front(text: str) -> dict[str, Any]:
    """The front matter, read by the project's own YAML reader."""
    _, head, _ = text.split("---\n", 2)
    node = parse_document(head, "card")
    return {key: child.value for key, child in node.value.items()}


def test_card_of_a_chain(tmp_path: Path) -> None:
    """Method, numbers, files with hashes and every run before it are in the card; paths, users and hosts are not."""
    *_, last = chain(tmp_path / "secret place")
    record = read_record(last.path) or {}
    text = render(record, {"model_type": "llama"}, is_adapter=False, has_tokenizer=True)

    assert front(text)["library_name"] == "transformers" and front(text)["pipeline_tag"] == "text-generation"
    assert "A llama model, tuned on preferences, starting from sft-1" in text
    assert "    - base model: base-1" in text and "(pretrain)" in text and "AutoTokenizer" in text
    assert record["outputs"]["model"]["files"][0]["sha256"] in text and "| training loss |" in text
    assert "secret place" not in text and "alice" not in text and str(tmp_path) not in text


def test_card_of_an_adapter_on_a_hub_model(tmp_path: Path) -> None:
    """An adapter is loaded through peft, and names the hub model that it belongs to in the form that hubs read."""
    recipe = values("reward", model={"path": "org/base"}, adapter={"kind": "lora", "rank": 8, "alpha": 16.0})
    run = make_run(tmp_path, "adapter-1", recipe, weights=b"w")
    text = render(read_record(run.path) or {}, {}, is_adapter=True, has_tokenizer=False)

    assert front(text) | {"tags": 0} == {
        "library_name": "peft", "pipeline_tag": "text-classification", "base_model": "org/base",
        "base_model_relation": "adapter", "tags": 0}
    assert "AutoPeftModelForSequenceClassification" in text and "lora, rank 8, alpha 16.0" in text
    assert "AutoTokenizer" not in text


def test_card_is_written_again_after_an_evaluation(tmp_path: Path) -> None:
    """The second card holds the table of before and after; the record beside it holds the same numbers."""
    run = make_run(tmp_path, "sft-1", values())
    make_model(run.model, b"w")
    write_model_card(run.model, tiny(), run, clock=FakeClock())
    assert "Evaluation" not in (run.model / "README.md").read_text()
    run.evaluation.write_text(json.dumps(EVALUATION))
    write_model_card(run.model, tiny(), run, clock=FakeClock())
    text = (run.model / "README.md").read_text()

    assert "| suite | measure | before | after |" in text and "| perplexity | loss | 3.25 | 1.5 |" in text
    assert json.loads((run.model / MODEL_FILE).read_bytes())["outputs"]["evaluation"] == EVALUATION
    assert json.loads(run.lineage.read_bytes())["inputs"][0]["sha256"] != ""


def test_trouble_costs_the_card_and_not_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in making the card is said, and the model is saved without one; a full disk is an error like any other."""
    run = make_run(tmp_path, "sft-1", values())
    make_model(run.model, b"w")
    monkeypatch.setattr(model_card, "render", lambda *_, **__: 1 // 0)
    write_model_card(run.model, tiny(), run)
    assert "no model card was written: ZeroDivisionError" in capsys.readouterr().err

    def full(*_: object, **__: object) -> None:
        raise StorageError("cannot write: No space left on device")

    monkeypatch.setattr(model_card, "model_saved", full)
    with pytest.raises(StorageError):
        write_model_card(run.model, tiny(), run)


def test_card_of_almost_nothing() -> None:
    """A record with holes everywhere still makes a card."""
    text = render({"run": {"name": "x"}, "inputs": [{"role": "base model"}, 7]}, {}, is_adapter=False, has_tokenizer=False)

    assert front(text)["library_name"] == "transformers" and text.count("# x\n") == 1


def tiny() -> Recipe:
    """A recipe that starts from random weights."""
    return Recipe.model_validate({
        "version": 1, "name": "tiny", "method": "pretrain", "model": {"config": {"model_type": "llama"}},
        "data": {"source": "python-docs"}, "training": {"steps": 1},
    })
