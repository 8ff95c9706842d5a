"""Marks of a judge, as a reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import EndpointError
from hpctrain.recipe.schema import Recipe
from hpctrain.testing.openai_question import Question
from hpctrain.testing.openai_server import OpenAiServer
from hpctrain.train.rewards.batch import Batch
from hpctrain.train.rewards.build import Surroundings, build_rewards

BATCH = Batch([[{"role": "user", "content": "Say red."}]] * 3, ["red", "blue", "red"])


def recipe(url: str, **more: Any) -> Recipe:
    judge = {"url": url, "model": "local", "api_key_env": "TEST_JUDGE_KEY", "timeout_s": 10, "retries": 0, **more}
    return Recipe.model_validate({"version": 1, "name": "t", "method": "rlaif", "judge": judge})


def mark(question: Question) -> str:
    """A judge that likes red."""
    return "MARK: 9" if "\nred\n" in question.messages[-1]["content"] else "MARK: 2"


def test_marks_are_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer gets its mark between 0 and 1; the same answer is asked about once, also by the next start of the run."""
    monkeypatch.setenv("TEST_JUDGE_KEY", "secret")
    with OpenAiServer(mark, key="secret") as server:
        around = Surroundings(marks=tmp_path, writer="rank-00000")
        first = build_rewards(recipe(server.url), around)
        assert first[0].name == "judge"
        assert first[0].score(BATCH) == [0.9, 0.2, 0.9]
        assert len(server.questions) == 2
        assert build_rewards(recipe(server.url), around)[0].score(BATCH) == [0.9, 0.2, 0.9]
        assert len(server.questions) == 2


def test_a_judge_that_is_down_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer after all tries the run ends with the endpoint's error, and not with a reward."""
    monkeypatch.setenv("TEST_JUDGE_KEY", "secret")
    with OpenAiServer(mark, key="secret") as server:
        url = server.url
    with pytest.raises(EndpointError):
        build_rewards(recipe(url))[0].score(BATCH)
