"""What is sent to an endpoint, and how what comes back is read."""

from __future__ import annotations

import json

import pytest

from hpctrain.endpoint.wire import LONGEST_WAIT_S, chat_body, error_text, other_limit_name, read_answer, shown, wait_s


def test_a_request_holds_what_every_server_knows() -> None:
    """Model, conversation, temperature and limit, not streamed; the limit has the name that is asked for."""
    body = chat_body("m", [{"role": "user", "content": "hi"}], temperature=0.0, max_new_tokens=7)
    other = chat_body("m", [], temperature=0.0, max_new_tokens=7, limit_name="max_completion_tokens")

    assert json.loads(body) == {
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.0, "max_tokens": 7, "stream": False}
    assert json.loads(other)["max_completion_tokens"] == 7
    assert "max_tokens" not in json.loads(other)


def test_an_answer_is_read_with_its_count_and_its_end() -> None:
    """Text, whether the limit cut it off, and tokens; absent counts are 0, an absent text is empty."""
    whole = {"choices": [{"message": {"content": "42"}, "finish_reason": "stop"}],
             "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    cut = {"choices": [{"message": {"content": None}, "finish_reason": "length"}], "usage": None}

    answer, short = read_answer(json.dumps(whole).encode()), read_answer(json.dumps(cut).encode())

    assert ("42", True, 5, 2) == (answer.text, answer.finished, answer.prompt_tokens, answer.completion_tokens)
    assert ("", False, 0) == (short.text, short.finished, short.prompt_tokens)


@pytest.mark.parametrize(("body", "says"), [
    (b"<html>busy</html>", "no JSON: <html>busy"), (b"[]", "no choices"), (b'{"choices": []}', "no choices"),
    (b'{"choices": [{"message": "x"}]}', "no choices"), (b'{"choices": [{"message": {"content": 5}}]}', "no text"),
    (b"\xff\xfe", "no JSON"),
])
def test_nonsense_is_named(body: bytes, says: str) -> None:
    """What is no answer is an error that shows the beginning of what came."""
    with pytest.raises(ValueError, match=says):
        read_answer(body)


def test_a_refusal_is_shown_in_the_servers_own_words() -> None:
    """OpenAI's and FastAPI's forms are understood, any other text is shown as it is, and nothing moves the cursor."""
    assert error_text(b'{"error": {"message": "no such model"}}') == "no such model"
    assert error_text(b'{"detail": "Not Found"}') == "Not Found"
    assert error_text(b'{"error": "busy"}') == "busy"
    assert error_text(b"a\x1b[2Jb\nc") == "a [2Jb c"
    assert len(shown("x" * 1000)) == 303


def test_waits_double_within_a_limit_and_heed_the_server() -> None:
    """1, 2, 4 s, at most a minute; Retry-After lengthens a wait, never beyond that; jitter stays within a quarter."""
    assert [wait_s(tries, None, 0.5) for tries in (1, 2, 3, 4)] == [1.0, 2.0, 4.0, 8.0]
    assert wait_s(1, 20.0, 0.5) == 20.0
    assert wait_s(1, 86400.0, 0.5) == LONGEST_WAIT_S == wait_s(5000, None, 1.0)
    assert 0.75 == wait_s(1, None, 0.0) < wait_s(1, None, 1.0) == 1.25


def test_the_other_name_of_the_limit_is_taken_from_the_refusal() -> None:
    """Only a refusal that names the other parameter switches to it."""
    refusal = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."

    assert other_limit_name("max_tokens", refusal) == "max_completion_tokens"
    assert other_limit_name("max_tokens", "max_tokens is too large") == ""
