"""Directories of Hugging Face's datasets, as a user has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.cli.main import invoke
from hpctrain.data.check import check_all, check_before_submission
from hpctrain.errors import HpctrainError, NotFoundError, RecipeError
from hpctrain.recipe.schema import Data, Recipe
from tests.unit.recipe.conftest import GOOD

datasets = pytest.importorskip("datasets")
ROWS = [{"prompt": f"{number} + 1 =", "completion": f" {number + 1}"} for number in range(4)]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is left in the developer's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


def saved(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder)
    return folder


def problem(folder: Path, **more: Any) -> HpctrainError:
    """What is wrong with a directory."""
    data = Data(source="huggingface", name=str(folder), **more)
    with pytest.raises(HpctrainError) as caught:
        found = check_all(data, "sft")
        raise found.problems[0].error()
    return caught.value


def test_saved_sets_that_are_damaged_are_named(tmp_path: Path) -> None:
    """No rows, a file that is missing, one that is cut off, a split that is not there: each with what to do."""
    good = saved(tmp_path / "good", ROWS)
    (file,) = good.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:100])
    assert str(problem(good)).startswith(f"{good}: cannot be read: ")
    file.unlink()
    assert f"is incomplete: 1 of 1 files are missing, the first is {file.name}" in str(problem(good))
    (good / "state.json").write_text("{")
    assert "state.json: cannot be read, so the data set is damaged" in str(problem(good))
    datasets.Dataset.from_list(ROWS).select([]).save_to_disk(tmp_path / "empty")
    assert f"{tmp_path}/empty: the data set holds no rows" in str(problem(tmp_path / "empty"))
    datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path / "splits")
    lost = problem(tmp_path / "splits")
    assert ("has no split 'train', only test", "data.split") == (lost.message, lost.advice.split()[0])


def test_bad_rows_and_files_of_a_directory_are_named(tmp_path: Path) -> None:
    """In a folder of parquet or jsonl files: the number of the row, or the file that cannot be read."""
    for name in ("parquet", "jsonl"):
        (tmp_path / name).mkdir()
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "parquet/a.parquet")
    lines = [*ROWS[:3], {"prompt": "x", "completion": " "}]
    (tmp_path / "jsonl/a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lines))

    bad = problem(tmp_path / "jsonl")
    assert (f"{tmp_path}/jsonl [train] row 4", "'completion' is empty") == (bad.where, bad.message)
    torn = tmp_path / "parquet/b.parquet"
    torn.write_bytes((tmp_path / "parquet/a.parquet").read_bytes()[:200])
    assert str(torn) in problem(tmp_path / "parquet").message


def test_a_submission_reads_the_first_rows_only(tmp_path: Path) -> None:
    """A directory is not copied into the cache for it, and a bad row or file ends it."""
    folder = tmp_path / "set"
    folder.mkdir()
    file = folder / "a.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    recipe = Recipe.model_validate({**GOOD, "method": "sft", "model": {"path": "org/m"},
                                    "data": {"source": "huggingface", "name": str(folder)}})
    assert check_before_submission(recipe) == []
    assert not list((tmp_path / "hf-cache").rglob("*.arrow"))
    file.write_text(f"{json.dumps(ROWS[0])}\n{{\n")
    with pytest.raises((RecipeError, NotFoundError), match=r"a\.jsonl"):
        check_before_submission(recipe)
    text = recipe.model_copy(update={"method": "cpt"})
    file.write_text(f"{json.dumps(ROWS[0])}\n")
    with pytest.raises(RecipeError, match=r"has no (column )?'text'"):
        check_before_submission(text)


def test_a_saved_directory_can_be_named_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """'data validate DIRECTORY' knows what save_to_disk has made, and source 'files' says how to read it."""
    folder = saved(tmp_path / "good", ROWS)
    assert invoke(["data", "validate", str(folder)]) == 0
    assert "rows     4" in capsys.readouterr().out
    with pytest.raises(NotFoundError, match="holds none of") as caught:
        check_all(Data(source="files", paths=[str(folder)]), "sft")
    assert f"data.source huggingface and data.name {folder}" in caught.value.advice
