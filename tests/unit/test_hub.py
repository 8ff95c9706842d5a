"""What a failure between here and the hub is called, and a stream that breaks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hpctrain.data import hub as reader
from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.hub import is_unreached, load_error
from hpctrain.recipe.schema import Data


class Answer:
    """An answer with a status."""

    def __init__(self, status: int) -> None:
        self.status_code = status


class HfHubHTTPError(Exception):
    """As huggingface_hub raises it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} for url")
        self.response = Answer(status)


class RepositoryNotFoundError(HfHubHTTPError):
    """Likewise."""


def wrapped(cause: BaseException) -> OSError:
    """As transformers hands it on."""
    try:
        raise OSError("We looked\nhere and there") from cause
    except OSError as error:
        return error


@pytest.mark.parametrize(("error", "passing"), [
    (ConnectionRefusedError(111, "Connection refused"), True), (TimeoutError("slow"), True), (HfHubHTTPError(503), True),
    (HfHubHTTPError(429), True), (wrapped(ConnectionError("reset")), True), (HfHubHTTPError(404), False),
    (wrapped(RepositoryNotFoundError(401)), False), (ValueError("bad file"), False),
])
def test_what_may_pass_is_told_from_what_stays(error: Exception, passing: bool) -> None:
    """No answer and a server in trouble pass; a repository that is not there does not."""
    assert is_unreached(error) == passing


def test_errors_say_what_and_what_to_do() -> None:
    """Name, hub, reason and the way out; offline mode and a missing repository are called that."""
    env = {"HF_ENDPOINT": "http://h"}
    lost = load_error(wrapped(ConnectionError("no route")), "model", "org/m", where="model.path", env=env)
    assert str(lost) == (
        "model.path: the model 'org/m' is not in the cache, and the hub at http://h cannot be reached: no route")
    assert "hf download org/m'" in lost.advice
    barred = load_error(ConnectionError("x"), "data set", "org/d", where="data.name", env={"HF_HUB_OFFLINE": "1"})
    assert "HF_HUB_OFFLINE forbids" in barred.message
    assert "org/d --repo-type dataset" in barred.advice
    gone = load_error(wrapped(RepositoryNotFoundError(401)), "model", "org/m", where="model.path", env={})
    assert "no model 'org/m' on the hub, or your token may not read it" in gone.message
    torn = load_error(ValueError("torn"), "model", "/m", where="model.path", env={})
    assert torn.message == "cannot load the model '/m': torn"


def stream(monkeypatch: pytest.MonkeyPatch, breaks: list[Exception | None]) -> tuple[list[int], list[float]]:
    """Read ten rows whose source breaks after three more each time, for each of these reasons; rows and pauses."""
    pauses: list[float] = []

    def rows(data: Data, *, skip: int, **_: Any) -> Iterator[dict[str, Any]]:
        error = breaks.pop(0) if breaks else None
        for number in range(skip, 10):
            if error is not None and number == skip + 3:
                raise error
            yield {"text": number}

    monkeypatch.setattr(reader, "_rows", rows)
    monkeypatch.setattr(reader.time, "sleep", pauses.append)
    return [row["text"] for row in reader.read_hub(Data(source="huggingface", name="a/b"), streaming=True)], pauses


def test_a_stream_goes_on_behind_the_row_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that comes back costs a pause, and neither loses nor doubles a row."""
    found, pauses = stream(monkeypatch, [ConnectionError("reset"), TimeoutError("slow")])
    assert found == list(range(10))
    assert pauses == [2.0, 2.0]


def test_a_stream_that_stays_broken_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries are counted while nothing comes; then it is one error with the row, and so at once is a damaged file."""
    monkeypatch.setattr(reader, "TRIES", 0)
    with pytest.raises(NotFoundError, match=r"cannot be reached: reset .* behind row 3"):
        stream(monkeypatch, [ConnectionError("reset")])
    with pytest.raises(RecipeError, match="cannot be read behind row 3: torn"):
        stream(monkeypatch, [ValueError("torn")])
