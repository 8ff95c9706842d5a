"""Text tokenised before the job that trains on it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import RecipeError
from hpctrain.recipe.schema import Recipe
from hpctrain.train import text, tokens
from hpctrain.train.prepared import find_prepared, prepare_text, tokenizer_of
from tests.unit.recipe.conftest import GOOD

np = pytest.importorskip("numpy")


def recipe(*paths: Path, **more: Any) -> Recipe:
    data = {"source": "files", "paths": [str(path) for path in paths], "sequence_length": 8}
    return Recipe.model_validate({**GOOD, "data": data, **more})


def key_of(recipe: Recipe) -> str:
    assert recipe.data is not None
    return tokens.fingerprint(text.identity(recipe.data), tokenizer_of(recipe))


def test_a_run_finds_what_was_prepared(tmp_path: Path) -> None:
    """The key that a run computes from names and times leads to the tokens; they count as its own."""
    (tmp_path / "a.txt").write_text("hello world")
    done = prepare_text(recipe(tmp_path / "a.txt"), tmp_path / "runs")

    found = find_prepared(tmp_path / "runs", key_of(recipe(tmp_path / "a.txt")))

    assert found is not None
    assert (found.tokens, found.reused, found.fingerprint) == (12, True, key_of(recipe(tmp_path / "a.txt")))
    assert found.open().tolist() == [*b"hello world", 256]
    assert (done.file.reused, done.samples) == (False, 1)
    assert done.hashes["files"][0]["bytes"] == 11


def test_the_same_text_elsewhere_is_not_tokenised_again(tmp_path: Path) -> None:
    """Contents decide: a copy of the files finds the tokens of the first, and other text makes its own."""
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a.txt", tmp_path / "b/other.txt")
    first = prepare_text(recipe(tmp_path / "a.txt"), tmp_path / "runs")

    second = prepare_text(recipe(tmp_path / "b/other.txt"), tmp_path / "runs")
    assert second.file.reused
    assert second.file.path == first.file.path
    (tmp_path / "a.txt").write_text("hullo")
    assert find_prepared(tmp_path / "runs", key_of(recipe(tmp_path / "a.txt"))) is None
    assert not prepare_text(recipe(tmp_path / "a.txt"), tmp_path / "runs").file.reused


def test_broken_tokens_are_not_believed(tmp_path: Path) -> None:
    """Tokens that were cut off, or that are gone, are not found; the run then makes its own."""
    (tmp_path / "a.txt").write_text("hello")
    done = prepare_text(recipe(tmp_path / "a.txt"), tmp_path / "runs")
    os.truncate(done.file.path, 3)

    assert find_prepared(tmp_path / "runs", key_of(recipe(tmp_path / "a.txt"))) is None
    assert not prepare_text(recipe(tmp_path / "a.txt"), tmp_path / "runs").file.reused


def test_rows_of_tuning_are_not_prepared(tmp_path: Path) -> None:
    """Rows of other methods are not taken for text."""
    chat = recipe(tmp_path, method="sft", model={"path": "/m"})

    with pytest.raises(RecipeError, match=r"for text .* and the method is 'sft'"):
        prepare_text(chat, tmp_path / "runs")
