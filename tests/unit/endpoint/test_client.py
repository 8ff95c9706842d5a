"""The client against a real server that behaves badly, and against a clock that a test moves."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from hpctrain.endpoint.client import AskingStopped, Client
from hpctrain.endpoint.exchange import NoReplyError, Reply
from hpctrain.endpoint.wire import Answer
from hpctrain.errors import EndpointError
from hpctrain.recipe.schema_method import Endpoint
from hpctrain.testing.fake_clock import FakeClock
from hpctrain.testing.openai_question import Question, RefusedError, Said
from hpctrain.testing.openai_server import Fault, OpenAiServer

KEY = "sk-very-secret"
ENV = {"KEY": KEY}


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def upper(question: Question) -> Said:
    return Said(str(question.messages[-1]["content"]).upper(), True, 3, 4)


def client(server: OpenAiServer, **more: Any) -> Client:
    settings = {"url": server.url, "model": "local", "api_key_env": "KEY", "timeout_s": 5.0, "retries": 3}
    options = {name: more.pop(name) for name in ("env", "clock", "notify", "share") if name in more}
    return Client(Endpoint.model_validate(settings | more), **{"env": ENV, "clock": FakeClock()} | options)


def faults(*first: Fault | None) -> Callable[[int], Fault | None]:
    """The given ones for the first requests, none afterwards."""
    return lambda number: first[number] if number < len(first) else None


def test_it_asks_what_the_recipe_says() -> None:
    """Conversation, temperature and limit arrive, and the answer comes back with its count."""
    with OpenAiServer(upper, key=KEY) as server:
        answer = client(server, temperature=0.5, max_new_tokens=9).answer(ask("hi"))

    assert answer == Answer("HI", True, 3, 4)
    assert server.questions == [Question(ask("hi"), 0.5, 9)]


@pytest.mark.parametrize("fault", [
    Fault(status=503), Fault(status=429, headers={"Retry-After": "7"}), Fault(drop=True), Fault(status=200, body=b"<html>"),
    Fault(status=200, body=b'{"choices": []}'), Fault(status=502, body=b""),
], ids=["busy", "too many", "dropped", "no JSON", "no answer", "bad gateway"])
def test_a_passing_fault_costs_a_wait(fault: Fault) -> None:
    """What another try may mend is tried again, after a wait, and told once."""
    clock, told = FakeClock(), []
    with OpenAiServer(upper, key=KEY, fault=faults(fault, fault)) as server:
        assert "HI" == client(server, clock=clock, notify=told.append).complete(ask("hi"))

    assert server.requests == 3
    assert sum(clock.sleeps) >= (14 if fault.headers else 0.75 + 1.5)
    assert 1 == len(told)
    assert "trying again in" in told[0]


def test_tries_are_bounded() -> None:
    """After retries + 1 tries the error says what the server said, and how often it was asked."""
    says = r"status 503: this fault was asked for \(3 tries\)"
    with OpenAiServer(upper, key=KEY, fault=lambda _: Fault(status=503)) as server, pytest.raises(
            EndpointError, match=says) as caught:
        client(server, retries=2).complete(ask("hi"))

    assert server.url == caught.value.where
    assert server.requests == 3


def test_a_server_that_is_down_is_named() -> None:
    """Nothing listens: the address and the reason are in the error."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(EndpointError, match=r"nothing listens at that address .*\(2 tries\)") as caught:
            Client(Endpoint(url=url, model="m", retries=1), clock=FakeClock()).complete(ask("hi"))

    assert url == caught.value.where


@pytest.mark.parametrize("fault", [Fault(delay_s=3), Fault(drip_s=0.2)], ids=["silent", "dripping"])
def test_the_time_limit_holds_for_the_whole_exchange(fault: Fault) -> None:
    """A server that says nothing, and one that sends a byte now and then, are given up in time."""
    started = time.monotonic()
    with OpenAiServer(upper, key=KEY, fault=lambda _: fault) as server, pytest.raises(EndpointError, match=r"within 0\.5 s"):
        client(server, timeout_s=0.5, retries=0).complete(ask("hi"))

    assert time.monotonic() - started < 30  # the dripping reply alone takes a minute


@pytest.mark.parametrize(("changes", "says", "hint"), [
    ({"api_key_env": "WRONG"}, "status 401", "check the variable WRONG"),
    ({"api_key_env": None}, "status 401", "in api_key_env"),
    ({"model": "gpt-9"}, "'gpt-9' does not exist", "'gpt-9'"),
    ({"max_new_tokens": 3}, "does not fit", ""),
])
def test_a_refusal_is_final(changes: dict[str, Any], says: str, hint: str) -> None:
    """A wrong key, model or request is not tried again, and the error says what to do."""
    def picky(question: Question) -> str:
        raise RefusedError(f"{question.max_new_tokens} does not fit")

    with OpenAiServer(picky, key=KEY) as server, pytest.raises(EndpointError, match=says) as caught:
        client(server, env={**ENV, "WRONG": "sk-other"}, **changes).complete(ask("hi"))

    assert server.requests == 1
    assert hint in caught.value.advice


def test_a_redirection_is_not_followed() -> None:
    """The key is not carried to another address."""
    fault = Fault(status=307, body=b"", headers={"Location": "http://127.0.0.1:9/elsewhere"})
    with OpenAiServer(upper, key=KEY, fault=lambda _: fault) as server, pytest.raises(EndpointError, match="307") as caught:
        client(server).complete(ask("hi"))

    assert "not followed" in caught.value.advice


def test_the_key_stands_in_no_message() -> None:
    """A server that repeats the key in its refusal does not get it into our errors."""
    body = json.dumps({"error": {"message": f"Incorrect key: {KEY}"}}).encode()
    with OpenAiServer(upper, key=KEY, fault=lambda _: Fault(status=401, body=body)) as server, pytest.raises(
            EndpointError, match=r"Incorrect key: \*\*\*") as caught:
        client(server).complete(ask("hi"))

    assert KEY not in f"{caught.value} {caught.value.advice}"


@pytest.mark.parametrize(("env", "says"), [
    ({}, "is not set"), ({"KEY": " "}, "is not set"), ({"KEY": "a\nb"}, "cannot be a key"),
])
def test_a_missing_key_is_known_before_anything_is_sent(env: dict[str, str], says: str) -> None:
    """The variable that is to hold the key is named; what it holds is not."""
    with pytest.raises(EndpointError, match=f"the variable KEY.*{says}") as caught:
        Client(Endpoint(url="http://127.0.0.1:1/v1", model="m", api_key_env="KEY"), env=env)

    assert "a\nb" not in str(caught.value)


def test_a_bad_url_is_refused() -> None:
    """Also where no recipe was checked."""
    with pytest.raises(EndpointError, match="no URL"):
        Client(Endpoint(url="file:///etc/passwd", model="m"))


def test_many_are_asked_at_once_and_come_back_in_order() -> None:
    """Never more than concurrency divided by the processes that share it; answers stand where their questions stood."""
    def slow(question: Question) -> Said:
        time.sleep(0.02)
        return upper(question)

    seen: list[int] = []
    with OpenAiServer(slow, key=KEY) as server:
        asking = client(server, concurrency=8, share=2)
        texts = asking.complete_many([ask(f"q{n}") for n in range(30)], tick=lambda done, of: seen.append(done * 100 + of))

    assert texts == [f"Q{n}" for n in range(30)]
    assert 1 < server.most_at_once <= 4
    assert 3030 == seen[-1] == max(seen)
    assert [] == client(server).complete_many([])


def test_one_failure_ends_the_asking_and_keeps_what_had_come() -> None:
    """Of many questions one is refused: what had been answered was passed on, and no further one is begun."""
    def picky(question: Question) -> Said:
        if question.messages[0]["content"] == "q5":
            raise RefusedError("q5 does not fit")
        return upper(question)

    kept: dict[int, str] = {}
    with OpenAiServer(picky, key=KEY) as server, pytest.raises(EndpointError, match="q5 does not fit"):
        client(server, concurrency=1).answer_many(
            [ask(f"q{n}") for n in range(100)], on_answer=lambda index, answer: kept.update({index: answer.text}))

    assert {n: f"Q{n}" for n in range(5)}.items() <= kept.items()
    assert server.requests < 20


def test_a_caller_may_stop() -> None:
    """A reason to stop ends the asking within a second or so, with that reason."""
    got: list[int] = []
    with OpenAiServer(upper, key=KEY) as server, pytest.raises(AskingStopped, match="time is up"):
        client(server, concurrency=2).answer_many(
            [ask("hi")] * 1000, on_answer=lambda index, _: got.append(index),
            stop=lambda: "time is up" if len(got) > 3 else "")

    assert len(got) < 100


def test_a_stop_ends_the_waiting_of_retries() -> None:
    """A client that waits a minute for its next try gives that up when one of the others has failed for good."""
    def post(url: str, body: bytes, **options: Any) -> Reply:
        if b"refused" in body:
            time.sleep(0.05)
            raise NoReplyError("its certificate is not trusted", lasting=True)
        raise NoReplyError("nothing listens")

    endpoint = Endpoint(url="https://judge.example/v1", model="m", retries=50, concurrency=2)
    with pytest.raises(EndpointError, match="certificate"):
        Client(endpoint, exchange=post).complete_many([ask("hi"), ask("refused")])

    deadline = time.monotonic() + 20
    while any(thread.name.startswith("endpoint") for thread in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("endpoint")]


def test_the_newer_name_of_the_limit_is_learned() -> None:
    """A server that refuses max_tokens and names another parameter is asked with that, at once and from then on."""
    sent: list[dict[str, Any]] = []

    def post(url: str, body: bytes, **options: Any) -> Reply:
        sent.append(json.loads(body))
        if "max_tokens" in sent[-1]:
            return Reply(400, b'{"error": {"message": "use max_completion_tokens"}}')
        return Reply(200, b'{"choices": [{"message": {"content": "ok"}}]}')

    asking = Client(Endpoint(url="https://x.example/v1", model="m"), exchange=post)

    assert ["ok", "ok"] == [asking.complete(ask("a")), asking.complete(ask("b"))]
    assert [False, True, True] == ["max_completion_tokens" in body for body in sent]


def test_retries_leave_the_random_numbers_of_training_alone() -> None:
    """Python's own generator draws the same numbers whether or not an endpoint had to be asked twice."""
    random.seed(5)
    expected = random.random()
    random.seed(5)
    with OpenAiServer(upper, key=KEY, fault=faults(Fault(status=503))) as server:
        client(server).complete(ask("hi"))

    assert expected == random.random()
