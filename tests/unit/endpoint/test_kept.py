"""Answers that are kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpctrain.endpoint.kept import Kept, question_key
from hpctrain.errors import StorageError
from hpctrain.recipe.schema_method import Endpoint

ENDPOINT = Endpoint(url="http://127.0.0.1:1/v1", model="m")


def test_what_was_put_is_there_for_every_later_reader(tmp_path: Path) -> None:
    """Each writer has its own file, and a reader knows the records of all."""
    Kept(tmp_path / "k", "a", durable=True).put("1", {"text": "eins"})
    Kept(tmp_path / "k", "b").put("2", {"text": "zwei"})

    kept = Kept(tmp_path / "k", "c")

    assert ({"text": "eins"}, {"text": "zwei"}, None) == (kept.get("1"), kept.get("2"), kept.get("3"))
    assert (2, {"1", "2"}) == (len(kept), set(kept))
    assert 0o600 == (tmp_path / "k" / "a.jsonl").stat().st_mode & 0o777


def test_half_a_line_is_not_believed(tmp_path: Path) -> None:
    """What a killed writer left half is skipped, and the next line is not lost with it."""
    Kept(tmp_path, "a").put("1", {"text": "eins"})
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"key": "2", "text": "zw')

    again = Kept(tmp_path, "a")
    assert again.get("2") is None
    again.put("3", {"text": "drei"})

    assert {"1", "3"} == set(Kept(tmp_path, "b"))


def test_a_disk_that_takes_nothing_is_an_error_only_where_keeping_matters(tmp_path: Path) -> None:
    """A cache goes on in memory and says why; what must be durable is refused."""
    (tmp_path / "file").write_text("")
    cache = Kept(tmp_path / "file", "a")
    cache.put("1", {"text": "eins"})

    assert {"text": "eins"} == cache.get("1")
    assert cache.problem
    with pytest.raises(StorageError):
        Kept(tmp_path / "file", "a", durable=True)
    memory = Kept(None, "a", durable=True)
    memory.put("1", {"text": "eins"})
    assert ({"text": "eins"}, "") == (memory.get("1"), memory.problem)


def test_a_key_is_the_content_of_the_question() -> None:
    """The same question has the same key; another word, model, place, limit or temperature has another."""
    question = [{"role": "user", "content": "hi"}]
    keys = {question_key(ENDPOINT.model_copy(update=change), question) for change in (
        {}, {"model": "n"}, {"url": "http://127.0.0.1:2/v1"}, {"temperature": 1.0}, {"max_new_tokens": 3})}
    keys.add(question_key(ENDPOINT, [{"role": "user", "content": "ho"}]))

    assert 6 == len(keys)
    assert question_key(ENDPOINT, [{"content": "hi", "role": "user"}]) in keys
    assert question_key(ENDPOINT.model_copy(update={"timeout_s": 1.0, "retries": 0, "api_key_env": "K"}), question) in keys
