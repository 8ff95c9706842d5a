"""Judges and teachers that cannot work are refused with the recipe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpctrain.recipe.check_endpoint import check_endpoints, endpoint_notes, endpoints_of
from hpctrain.recipe.endpoint_url import is_loopback, is_open, url_problem
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.schema import Recipe

Make = Callable[..., Recipe]
JUDGE = {"url": "http://127.0.0.1:8000/v1", "model": "m"}
TEACHER = {"endpoint": {"url": "https://api.example/v1", "model": "m"}}
RLAIF: dict[str, Any] = {"method": "rlaif", "model": {"path": "m"}}
DISTILL: dict[str, Any] = {"method": "distill", "model": {"path": "m"}}


def problems(recipe: Recipe) -> list[tuple[str, str]]:
    return [(dotted(problem.path), problem.message) for problem in check_endpoints(recipe)]


@pytest.mark.parametrize("changes", [
    {**RLAIF, "judge": JUDGE}, {**DISTILL, "teacher": TEACHER}, {},
    {**DISTILL, "teacher": {"path": "t", "temperature": 2.0}},
    {"evaluate": {"suites": [{"kind": "judge"}]}, "judge": JUDGE}, {**RLAIF, "rewards": [{"kind": "length"}]},
])
def test_what_works_passes(make: Make, changes: dict[str, Any]) -> None:
    """A judge that is asked, a teacher of either kind, and recipes without."""
    assert [] == problems(make(**changes))


@pytest.mark.parametrize(("changes", "key", "message"), [
    (RLAIF, "method", "needs a 'judge' section"),
    ({"evaluate": {"suites": [{"kind": "perplexity"}, {"kind": "judge"}]}}, "evaluate.suites[1]", "needs a 'judge' section"),
    ({"judge": JUDGE}, "judge", "has no effect"),
    ({**RLAIF, "judge": {**JUDGE, "url": "127.0.0.1:8000"}}, "judge.url", "'127.0.0.1:8000' is no URL"),
    (DISTILL, "", "needs a 'teacher' section"),
    ({"teacher": TEACHER}, "teacher", "belongs to method 'distill'"),
    ({**DISTILL, "teacher": {}}, "teacher", "exactly one of"),
    ({**DISTILL, "teacher": {**TEACHER, "path": "t"}}, "teacher", "exactly one of"),
    ({**DISTILL, "teacher": {**TEACHER, "on_policy_share": 0.5}}, "teacher.on_policy_share", "with a 'path'"),
    ({**DISTILL, "teacher": {**TEACHER, "temperature": 2.0}}, "teacher.temperature", "with a 'path'"),
    ({**DISTILL, "teacher": {"path": "t"}, "chat": {"packing": True}}, "chat.packing", "not packed"),
])
def test_what_cannot_work_is_named(make: Make, changes: dict[str, Any], key: str, message: str) -> None:
    """Each problem has the key it is about and says what was expected."""
    found = problems(make(**changes))

    assert [key] == [place for place, _ in found]
    assert message in found[0][1]


@pytest.mark.parametrize(("url", "problem"), [
    ("http://127.0.0.1:8000/v1", ""), ("https://api.example.com/v1/", ""), ("http://[::1]:8000/v1", ""),
    ("http://node-7:80", ""),
    ("ftp://x/v1", "no URL"), ("http://", "no URL"), ("http://a b/v1", "no URL"), ("http://x/v1\n", "no URL"),
    ("x", "no URL"),
    ("http://x:99999/v1", "port 99999"), ("http://x:0/v1", "port 0"), ("https://user:pw@x/v1", "no user or password"),
    ("http://x/v1?key=1", "no '?'"), ("http://x/v1/chat/completions", "must end before"),
])
def test_urls(url: str, problem: str) -> None:
    """Only plain HTTP addresses without secrets in them."""
    found = url_problem(url)

    assert problem in found
    assert bool(problem) == bool(found)


def test_a_password_in_a_url_is_not_repeated(make: Make) -> None:
    """The message about it does not show it."""
    (found,) = problems(make(**RLAIF, judge={**JUDGE, "url": "https://me:hunter2@x/v1"}))

    assert "hunter2" not in found[1]
    assert "password" in found[1]


def test_a_key_over_plain_http_is_told(make: Make) -> None:
    """To another machine it can be read on the way; on the loopback and under TLS it cannot."""
    def notes(url: str) -> list[str]:
        return list(endpoint_notes(make(**RLAIF, judge={"url": url, "model": "m", "api_key_env": "KEY"})))

    assert ["plain HTTP" in note for note in notes("http://node7:8000/v1")] == [True]
    assert [] == notes("https://node7:8000/v1") == notes("http://localhost:8000/v1")
    assert is_loopback("http://[::1]/v1")
    assert not is_loopback("http://127.0.0.1.example.com/v1")
    assert not is_open("https://node7/v1")


def test_only_endpoints_that_are_asked_are_listed(make: Make) -> None:
    """The teacher of a distillation, and the judge where a reward or a suite needs it."""
    both = make(**DISTILL, teacher=TEACHER, judge=JUDGE, evaluate={"suites": [{"kind": "judge"}]})

    found = [(use.role, dotted(use.path)) for use in endpoints_of(both)]
    assert [("teacher", "teacher.endpoint"), ("judge", "judge")] == found
    assert [None, both.judge] == [use.judge for use in endpoints_of(both)]
    assert [] == endpoints_of(make(judge=JUDGE))
    assert [] == endpoints_of(make(**DISTILL, teacher={"path": "t"}))
