"""The test server keeps to the form that clients of such servers rely on, and runs as a program."""

from __future__ import annotations

import http.client
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from hpctrain import process
from hpctrain.endpoint.client import Client
from hpctrain.endpoint.judge_text import mark_question
from hpctrain.recipe.schema_method import Endpoint
from hpctrain.testing.openai_scripted import SCRIPTS, arithmetic, judge, letters, worth
from hpctrain.testing.openai_server import OpenAiServer

KEY = "secret"


def call(server: OpenAiServer, method: str, path: str, body: Any = None, key: str = KEY) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", int(server.url.rsplit(":", 1)[1].split("/")[0]), timeout=20)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, text, {"Authorization": f"Bearer {key}"})
    reply = connection.getresponse()
    try:
        return reply.status, json.loads(reply.read())
    finally:
        connection.close()


def test_documents_have_the_usual_form() -> None:
    """An answer, the list of models, and errors look as OpenAI's."""
    question = {"model": "local", "messages": [{"role": "user", "content": "hi"}]}
    with OpenAiServer(lambda _: "hello", key=KEY) as server:
        status, answer = call(server, "POST", "/v1/chat/completions", question)
        _, models = call(server, "GET", "/v1/models")
        refusals = {
            call(server, "GET", "/v1/models", key="other")[0]: 401, call(server, "GET", "/v2/models")[0]: 404,
            call(server, "POST", "/v1/chat/completions", b"{oops")[0]: 400,
        }
        errors = [call(server, "POST", "/v1/chat/completions", {**question, **change}) for change in (
            {"messages": []}, {"stream": True}, {"max_tokens": 0}, {"temperature": -1}, {"model": "x"})]

    assert (200, "chat.completion", "stop") == (status, answer["object"], answer["choices"][0]["finish_reason"])
    assert {"role": "assistant", "content": "hello"} == answer["choices"][0]["message"]
    assert ["local"] == [model["id"] for model in models["data"]]
    assert all(status == wanted for status, wanted in refusals.items())
    assert 3 == len(refusals)
    assert [400, 400, 400, 400, 404] == [status for status, _ in errors]
    assert all(document["error"]["message"] for _, document in errors)


def test_a_server_needs_a_key() -> None:
    """There is no server that answers everybody."""
    with pytest.raises(ValueError, match="key"):
        OpenAiServer(lambda _: "", key="")


def test_scripted_models_do_real_work() -> None:
    """Sums are computed from whatever words surround them; marks depend on the answer."""
    assert ["5", "-1", "6", "7"] == [arithmetic([{"role": "user", "content": text}]) for text in (
        "What is 2 + 3?", "compute 2 - 3 please", "2*3", "1 + 1 is 2, and 3+4?")]
    assert "nothing to compute" in arithmetic([{"role": "user", "content": "hi"}])
    assert (1.0, 0.0, 0.0) == (worth("2 + 3", "it is 5"), worth("2 + 3", "it is 6"), worth("2 + 3", "?"))
    assert 0.5 == worth("colour theory", "the colour red")
    assert judge([{"role": "user", "content": "no brackets at all"}]).startswith("MARK: 0")
    assert "MARK: 5" == letters(mark_question("any", 10, "1 + 1", "ab?!"))
    assert "MARK: 0" == letters(mark_question("any", 10, "1 + 1", ""))


def test_it_runs_as_a_program_and_ends_when_told(tmp_path: Path) -> None:
    """It prints where it serves once it does, takes its key from the named variable, and ends with 0 on SIGTERM."""
    ready_file = tmp_path / "ready.json"
    argv = [sys.executable, "-m", "hpctrain.testing.openai_server", "--scripted", "arithmetic", "--key-env", "MY_KEY",
            "--ready-file", str(ready_file)]
    server = process.start(argv, stdout=process.PIPE, env={**os.environ, "MY_KEY": KEY})
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        endpoint = Endpoint(url=ready["url"], model=ready["model"], api_key_env="MY_KEY")
        assert "12" == Client(endpoint, env={"MY_KEY": KEY}).complete([{"role": "user", "content": "5 + 7"}])
        assert ready == json.loads(ready_file.read_text())
    finally:
        server.terminate()
        assert 0 == server.wait(60)
        server.stdout.close()  # type: ignore[union-attr] - read from above


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["--scripted", "echo", "--key-env", "NOT_SET"], 2, "the variable NOT_SET with the key is not set"),
    (["--scripted", "poet"], 2, "invalid choice"), ([], 2, "one of the arguments"),
])
def test_what_is_wrong_is_said(arguments: list[str], code: int, says: str) -> None:
    """A missing key or model ends with one message and a code, no traceback."""
    result = process.run([sys.executable, "-m", "hpctrain.testing.openai_server", *arguments], timeout_s=60)

    assert code == result.returncode
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_every_script_says_what_it_does() -> None:
    """The help prints the first line of each."""
    assert all((script.__doc__ or "").split("\n")[0].endswith(".") for script in SCRIPTS.values())
