"""Rows tokenised before the job that trains on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpctrain.errors import RecipeError
from hpctrain.recipe.schema import Recipe
from tests.unit.recipe.conftest import GOOD

pytest.importorskip("trl")

from hpctrain.data.files import Row
from hpctrain.train.tune.prepare import encoding_of, prepare_rows
from hpctrain.train.tune.preview import as_tokens
from hpctrain.train.tune.row_files import find_rows, rows_key
from hpctrain.train.tune.tokenizer import load_tokenizer

ASKED = {"role": "user", "content": "2 + 2?"}
CHAT = {"messages": [ASKED, {"role": "assistant", "content": "4"}]}
WRONG = {"role": "assistant", "content": "5"}
PAIR = {"prompt": [ASKED], "chosen": [{"role": "assistant", "content": "4"}], "rejected": [WRONG]}


def recipe(path: Path, method: str = "sft", **more: Any) -> Recipe:
    data = {"source": "files", "paths": [str(path)], "sequence_length": 64, **more.pop("data", {})}
    model, tokenizer = {"path": "/m"}, {"kind": "bytes"}
    return Recipe.model_validate({**GOOD, "method": method, "model": model, "tokenizer": tokenizer, "data": data, **more})


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def nobody(number: int) -> None:
    del number


def key_of(recipe: Recipe) -> str:
    tokenizer = load_tokenizer(recipe)
    assert recipe.data is not None
    return rows_key(recipe.method or "", recipe.data, tokenizer, encoding_of(recipe, tokenizer))


def test_a_run_finds_the_rows_that_were_prepared(tmp_path: Path) -> None:
    """The key that a run computes leads to the folder; the same rows elsewhere are not tokenised again, others are."""
    path = write(tmp_path / "a.jsonl", CHAT, CHAT)
    done = prepare_rows(recipe(path), tmp_path / "runs", nobody)
    assert (done.reused, done.facts["training"], done.facts["validation"]) == (False, 2, 0)
    assert find_rows(tmp_path / "runs", key_of(recipe(path))) == done.folder

    copied = Path(shutil.copy(path, tmp_path / "b.jsonl"))
    assert find_rows(tmp_path / "runs", key_of(recipe(copied))) is None
    again = prepare_rows(recipe(copied), tmp_path / "runs", nobody)
    assert (again.reused, again.folder) == (True, done.folder)
    assert find_rows(tmp_path / "runs", key_of(recipe(copied))) == done.folder
    assert prepare_rows(recipe(copied, chat={"loss_on": "all"}), tmp_path / "runs", nobody).folder != done.folder
    write(path, CHAT)
    assert find_rows(tmp_path / "runs", key_of(recipe(path))) is None


def test_packed_rows_are_prepared_packed(tmp_path: Path) -> None:
    """Packing is done beforehand too: fewer sequences than rows, and another folder than without it."""
    path = write(tmp_path / "a.jsonl", *[CHAT] * 8)

    packed = prepare_rows(recipe(path, chat={"packing": True}), tmp_path / "runs", nobody)

    assert packed.facts["packed"]
    assert packed.facts["rows"] == 8
    assert 0 < packed.facts["training"] < 8
    assert prepare_rows(recipe(path), tmp_path / "runs", nobody).folder != packed.folder


def test_bad_rows_are_named(tmp_path: Path) -> None:
    """A bad row ends the preparation with its place, and leaves no folder; methods without such rows say so."""
    path = write(tmp_path / "a.jsonl", CHAT, {"messages": 5})

    with pytest.raises(RecipeError, match="'messages' is a number") as caught:
        prepare_rows(recipe(path), tmp_path / "runs", nobody)
    assert caught.value.where == f"{path}:2"
    assert list((tmp_path / "runs/prepared-data").glob("rows-*")) == []
    with pytest.raises(RecipeError, match="method 'rlvr' has no rows"):
        prepare_rows(recipe(path, "rlvr"), tmp_path / "runs", nobody)


def test_a_preview_shows_what_is_learned() -> None:
    """Of a conversation the answer and its end are learned, of a pair both answers are shown; a row too long is left out."""
    (parts,) = as_tokens(recipe(Path("x"), data={"format": "chat"}), [Row(CHAT, "x:1")])
    assert [part.purpose for part in parts] == ["read", "learned"]
    assert "2 + 2?" in parts[0].text
    assert parts[1].text.startswith("4")

    (pair,) = as_tokens(recipe(Path("x"), "dpo"), [Row(PAIR, "x:1")])
    assert [part.purpose for part in pair] == ["prompt_ids", "chosen_ids", "rejected_ids"]
    assert as_tokens(recipe(Path("x"), "dpo", data={"sequence_length": 8}), [Row(PAIR, "x:1")]) == [[]]
