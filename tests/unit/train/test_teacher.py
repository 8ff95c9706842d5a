"""A teacher behind an endpoint that refuses some questions, or most."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpctrain.errors import EndpointError
from hpctrain.jobs.layout import RunDir
from hpctrain.recipe.schema import Data
from hpctrain.recipe.schema_method import Endpoint
from hpctrain.testing.openai_question import Question, RefusedError
from hpctrain.testing.openai_server import OpenAiServer
from hpctrain.train.tune.teacher import ask_teacher

pytest.importorskip("torch")

ROWS = 30


class Alone:
    """What asking needs of a run with one rank, and what it was told."""

    def __init__(self, place: Path) -> None:
        rows = place / "rows.jsonl"
        rows.write_text("".join(json.dumps({"prompt": f"word {number}"}) + "\n" for number in range(ROWS)))
        self.events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.context: Any = SimpleNamespace(
            data=Data(source="files", paths=[str(rows)]), recipe=SimpleNamespace(method="distill"),
            run_dir=RunDir(place / "run"), ranks=SimpleNamespace(on_first=lambda work: work()),
            heartbeat=SimpleNamespace(beat=lambda *_, **__: None), stop=SimpleNamespace(reason=""),
            report=SimpleNamespace(
                say=self.said.append,
                event=lambda kind, reason, evidence: self.events.append({"kind": kind, "reason": reason, **evidence})),
        )
        self.context.run_dir.path.mkdir()

    def ask(self, server: OpenAiServer) -> list[str]:
        """The prompts that have an answer to learn."""
        teacher = Endpoint(url=server.url, model="local", api_key_env="TEST_TEACHER_KEY", retries=0, concurrency=2)
        answered = ask_teacher(self.context, teacher)
        return [json.loads(line)["prompt"] for line in Path(answered.path).read_text().splitlines()]


def refusing(prompts: set[str]) -> Any:
    """A teacher that these questions are too long for."""
    def model(question: Question) -> str:
        if str(question.messages[-1]["content"]) in prompts:
            raise RefusedError("at most 4096 tokens")
        return "yes"
    return model


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_TEACHER_KEY", "secret")


def test_a_few_refusals_are_left_out_and_told(tmp_path: Path) -> None:
    """Two questions in thirty: the others are learned, one event counts and names them, and they are not asked again."""
    alone = Alone(tmp_path)
    with OpenAiServer(refusing({"word 4", "word 17"}), key="secret") as server:
        assert [f"word {number}" for number in range(ROWS) if number not in (4, 17)] == alone.ask(server)
        assert ROWS == server.requests
        assert 28 == len(alone.ask(server))
        assert ROWS == server.requests

    for event in alone.events:
        assert ("teacher.answered", 2, 0) == (event["kind"], event["refused"], event["empty"])
        assert "2 questions that the teacher refuses left out, such as " in event["reason"]
        assert "rows.jsonl:5: it answered with HTTP status 400: at most 4096 tokens" in event["reason"]


def test_many_refusals_end_the_run_and_name_a_row(tmp_path: Path) -> None:
    """More than a tenth: one error with file and line, the teacher's words, a hint; once mended they are asked again."""
    alone, too_long = Alone(tmp_path), {f"word {number}" for number in range(20, 24)}
    with OpenAiServer(refusing(too_long), key="secret") as server:
        with pytest.raises(EndpointError, match="HTTP status 400: at most 4096 tokens; so does it 3 others") as caught:
            alone.ask(server)
        too_long.clear()
        assert ROWS == len(alone.ask(server))

    assert caught.value.where.startswith(f"{tmp_path}/rows.jsonl:2")
    assert "--max-model-len" in caught.value.advice
    assert server.requests <= ROWS + 4 + 2  # what had an answer kept it; two may have come too late to be kept


def test_a_teacher_that_refuses_everything_is_asked_no_more(tmp_path: Path) -> None:
    """The first few refusals are enough, whatever the size of the set."""
    alone = Alone(tmp_path)
    with OpenAiServer(refusing({f"word {number}" for number in range(ROWS)}), key="secret") as server:
        with pytest.raises(EndpointError, match="refuses this question"):
            alone.ask(server)
        assert server.requests < ROWS
