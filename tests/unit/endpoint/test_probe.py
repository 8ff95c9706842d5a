"""One question before anything is paid for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hpctrain.endpoint.exchange import NoReplyError, Reply
from hpctrain.endpoint.probe import PATIENCE_S, probe_at_start, probe_at_submission
from hpctrain.errors import EndpointError
from hpctrain.recipe.schema import Recipe
from hpctrain.testing.openai_scripted import SCRIPTS
from hpctrain.testing.openai_server import OpenAiServer

KEY = "secret"
ENV = {"KEY": KEY}
BASE: dict[str, Any] = {
    "version": 1, "name": "t", "model": {"path": "/m"}, "data": {"source": "arithmetic"}, "training": {"steps": 1},
}


def rlaif(url: str, **more: Any) -> Recipe:
    return Recipe.model_validate({**copy.deepcopy(BASE), "method": "rlaif", "judge": {
        "url": url, "model": "local", "api_key_env": "KEY", "retries": 0, **more}})


def distill(url: str, **more: Any) -> Recipe:
    return Recipe.model_validate({**copy.deepcopy(BASE), "method": "distill", "teacher": {"endpoint": {
        "url": url, "model": "local", "api_key_env": "KEY", "retries": 0, **more}}})


def judging(question: Any) -> str:
    return SCRIPTS["judge"](question.messages)


def test_what_answers_is_told_with_its_time() -> None:
    """A judge and a teacher that work are each asked one question, and a sentence says so."""
    with OpenAiServer(judging, key=KEY) as server:
        (judge,) = probe_at_submission(rlaif(server.url), one_host=True, env=ENV)
        (teacher,) = probe_at_submission(distill(server.url, max_new_tokens=500), one_host=True, env=ENV)

    assert 2 == server.requests
    assert 16 == server.questions[1].max_new_tokens
    assert judge.startswith(f"the judge local at {server.url} answers (")
    assert teacher.startswith(f"the teacher local at {server.url} answers (")


def test_a_judge_must_give_a_mark() -> None:
    """One that says something else is refused before the job is queued, with what it said."""
    with OpenAiServer(lambda _: "I am a poet", key=KEY) as server, pytest.raises(EndpointError, match="a poet") as caught:
        probe_at_submission(rlaif(server.url), one_host=True, env=ENV)

    assert f"judge: {server.url}" == caught.value.where
    assert 2 == server.requests


def test_a_server_that_is_down_stops_the_submission_and_says_what_to_do() -> None:
    """The place in the recipe comes first; the hint names the way to submit nevertheless."""
    def down(url: str, body: bytes, **options: Any) -> Reply:
        assert options["timeout_s"] <= PATIENCE_S
        raise NoReplyError("nothing listens")

    with pytest.raises(EndpointError, match="nothing listens") as caught:
        probe_at_submission(distill("http://far.example/v1", timeout_s=3600.0), one_host=False, env=ENV, exchange=down)

    assert "teacher.endpoint: http://far.example/v1" == caught.value.where
    assert "teacher.endpoint.check: start" in caught.value.advice


def test_what_cannot_be_reached_from_here_is_asked_later() -> None:
    """A loopback address of the job's node, and an endpoint whose recipe says so, are not asked at submission."""
    def never(url: str, body: bytes, **options: Any) -> Reply:
        raise AssertionError("asked")

    (loopback,) = probe_at_submission(rlaif("http://127.0.0.1:8000/v1"), one_host=False, env={}, exchange=never)
    (later,) = probe_at_submission(rlaif("http://far.example/v1", check="start"), one_host=True, env={}, exchange=never)

    assert "when training starts" in loopback
    assert "when training starts" in later


def test_training_begins_with_a_question_to_the_judge_only() -> None:
    """The teacher is asked for its answers right then, and those of an earlier start must not need it any more."""
    with OpenAiServer(judging, key=KEY) as server:
        assert 1 == len(probe_at_start(rlaif(server.url, check="start"), env=ENV))
        assert [] == probe_at_start(distill(server.url), env=ENV)

    assert 1 == server.requests
    with pytest.raises(EndpointError, match="nothing listens"):
        probe_at_start(rlaif(server.url), env=ENV)


def test_a_recipe_without_endpoints_asks_nobody() -> None:
    """Also where it has a judge section that nothing uses."""
    plain = Recipe.model_validate({**BASE, "method": "sft", "judge": {"url": "http://far.example/v1", "model": "m"}})

    assert [] == probe_at_submission(plain, one_host=True, env={})
