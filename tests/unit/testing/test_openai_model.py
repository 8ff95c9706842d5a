"""A model directory behind the test server."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.endpoint.client import Client
from hpctrain.errors import EndpointError, NotFoundError
from hpctrain.recipe.schema_method import Endpoint
from hpctrain.testing.openai_server import OpenAiServer

pytest.importorskip("transformers")

KEY = {"KEY": "secret"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on bytes."""
    from tests.train.tuning import make_model

    return make_model(tmp_path_factory.mktemp("model"))


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_a_model_directory_answers_as_transformers_does(folder: Path) -> None:
    """What comes over HTTP, asked alone or with others, is what the model writes greedily; tokens are counted."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from hpctrain.testing.openai_model import LocalModel

    with LocalModel(folder) as model, OpenAiServer(model, key="secret") as server:
        client = Client(Endpoint(url=server.url, model="local", api_key_env="KEY", max_new_tokens=6, retries=0), env=KEY)
        alone = client.answer(ask("hi"))
        many = client.complete_many([ask(text) for text in ("hi", "a longer question", "hi", "x", "hi")])

    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(ask("hi"), add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        written = AutoModelForCausalLM.from_pretrained(folder).eval().generate(
            **prompt, max_new_tokens=6, do_sample=False, pad_token_id=tokenizer.pad_token_id)
    width = prompt["input_ids"].shape[1]
    assert tokenizer.decode(written[0, width:], skip_special_tokens=True) == alone.text
    assert [alone.text] * 3 == [many[0], many[2], many[4]]
    assert width == alone.prompt_tokens


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    """A conversation longer than the model's context is an error at once, with the numbers."""
    from hpctrain.testing.openai_model import LocalModel

    with LocalModel(folder) as model, OpenAiServer(model, key="secret") as server, pytest.raises(
            EndpointError, match="context length of 128"):
        Client(Endpoint(url=server.url, model="local", api_key_env="KEY"), env=KEY).complete(ask("x" * 200))

    assert server.requests == 1


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    """The error has the directory and the reason."""
    from hpctrain.testing.openai_model import LocalModel

    with pytest.raises(NotFoundError, match=r"no config\.json") as caught:
        LocalModel(tmp_path)

    assert str(tmp_path) == caught.value.where
