"""What a recipe loads from the hub is asked for before anything is queued."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import NotFoundError
from hpctrain.recipe.schema import Recipe
from hpctrain.submit.hub_probe import ask_hub
from tests.unit.recipe.conftest import GOOD

pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """Knows one model and one data set."""

    def do_GET(self) -> None:
        """Answer as the hub does."""
        known = self.path.split("?")[0] in ("/api/models/org/known", "/api/datasets/org/rows")
        body = json.dumps({"id": "org/known", "siblings": []} if known else {"error": "Repository not found"}).encode()
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Address of a hub, and an empty cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def recipe(model: str, env: dict[str, str], data: str = "org/rows") -> Recipe:
    return Recipe.model_validate({**GOOD, "method": "cpt", "model": {"path": model}, "env": env,
                                  "data": {"source": "huggingface", "name": data}})


ORIGINS = {"model.path": "r.yaml:4", "data.name": "r.yaml:5"}


def test_what_the_hub_has_passes_and_what_it_lacks_is_refused(hub: str) -> None:
    """A model and a data set that are there are no note; one that is not is named with its line."""
    assert ask_hub(recipe("org/known", {"HF_ENDPOINT": hub}), ORIGINS, one_host=False) == []
    with pytest.raises(NotFoundError, match="no model 'org/unknown' on the hub") as caught:
        ask_hub(recipe("org/unknown", {"HF_ENDPOINT": hub}), ORIGINS, one_host=False)
    assert caught.value.where == "r.yaml:4: model.path"
    with pytest.raises(NotFoundError, match="no data set 'org/lost' on the hub"):
        ask_hub(recipe("org/known", {"HF_ENDPOINT": hub}, "org/lost"), ORIGINS, one_host=False)


def test_a_hub_out_of_reach_is_a_note_or_refused(hub: str) -> None:
    """Nodes may reach what this machine does not: a note, unless the job runs here, or may not ask at all."""
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    first, second = ask_hub(recipe("org/known", nowhere), ORIGINS, one_host=False)
    assert "the hub at http://127.0.0.1:9 cannot be reached: [Errno 111] Connection refused" in first
    assert "the data set 'org/rows'" in second
    with pytest.raises(NotFoundError, match="cannot be reached") as caught:
        ask_hub(recipe("org/known", nowhere), ORIGINS, one_host=True)
    assert "hf download org/known" in caught.value.advice
    with pytest.raises(NotFoundError, match="HF_HUB_OFFLINE forbids"):
        ask_hub(recipe("org/known", {"HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "1"}), ORIGINS, one_host=False)


def test_what_is_in_the_cache_is_not_asked_for(hub: str, tmp_path: Path) -> None:
    """A model in the user's cache needs no hub."""
    for kind in ("models--org--known", "datasets--org--rows"):
        folder = tmp_path / "cache/hub" / kind
        (folder / "snapshots/abc").mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs/main").write_text("abc")
    assert ask_hub(recipe("org/known", {"HF_ENDPOINT": "http://127.0.0.1:9"}), ORIGINS, one_host=True) == []
    assert hub
