"""Real trainers in the three modes of reading data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.data.read import python_docs
from hpctrain.recipe.schema import Recipe
from hpctrain.train.prepared import prepare_text
from tests.train.ranks import WarmRanks, event_kinds, final_weights, logs, make_recipe
from tests.train.tuning import modules, tuning_recipe


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    """Two files of English, and the data section that names them."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, name in enumerate(("a.jsonl", "b.jsonl")):
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in python_docs()[number:20:2]))
    return {"source": "files", "paths": [str(folder)], "sequence_length": 32}


def test_a_killed_stream_ends_byte_equal(trainers: WarmRanks, tmp_path: Path, texts: dict[str, Any]) -> None:
    """Ranks that read a stream and are killed go on at the place that was saved, and end with the weights of a calm run."""
    recipe = make_recipe(data={**texts, "mode": "stream"})
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    assert [0] * 4 == trainers.finish(calm, recipe), logs(calm)

    first = trainers.start(stormy, recipe, TEST_SLOW_S="0.1")
    first.wait_until(lambda beat: beat.get("step") == 7)
    first.kill()
    first.wait()
    assert [0] * 4 == trainers.finish(stormy, recipe), logs(stormy)

    assert "checkpoint.restored" in event_kinds(stormy)
    assert final_weights(calm) == final_weights(stormy)


def test_modes_do_not_change_what_is_learned(trainers: WarmRanks, tmp_path: Path, texts: dict[str, Any]) -> None:
    """Tokens that were prepared, and copies of them on the node's disk, train the same weights; no copy is left behind."""
    shared, copied = tmp_path / "runs/shared", tmp_path / "runs/copied"
    shared.parent.mkdir()
    recipe = make_recipe(data=texts)
    assert [0] * 4 == trainers.finish(shared, recipe), logs(shared)

    prepare_text(Recipe.model_validate(recipe), tmp_path / "runs")
    disk = tmp_path / "disk"
    recipe = make_recipe(data={**texts, "mode": "copy", "copy_to": str(disk)})
    assert [0] * 4 == trainers.finish(copied, recipe), logs(copied)

    assert final_weights(shared) == final_weights(copied)
    assert not (copied / "cache").exists()
    assert "data.staged" in event_kinds(copied)
    assert list(disk.iterdir()) == []


@pytest.mark.slow
def test_modes_do_not_change_what_a_tuned_model_learns(trainers: WarmRanks, tmp_path: Path) -> None:
    """Rows that were prepared, and copies of them on the node's disk, tune the same weights; no copy is left behind."""
    pytest.importorskip("trl")
    from hpctrain.train.tune.prepare import prepare_rows

    shared, copied, disk = tmp_path / "runs/shared", tmp_path / "runs/copied", tmp_path / "disk"
    shared.parent.mkdir()
    recipe, imports = tuning_recipe("sft", tmp_path, training={"steps": 4}), modules("sft")
    assert [0] * 4 == trainers.finish(shared, recipe, modules=imports), logs(shared)

    prepare_rows(Recipe.model_validate(recipe), tmp_path / "runs", lambda number: None)
    recipe["data"] |= {"mode": "copy", "copy_to": str(disk)}
    assert [0] * 4 == trainers.finish(copied, recipe, modules=imports), logs(copied)

    assert final_weights(shared) == final_weights(copied)
    assert list((copied / "cache").glob("rows-*")) == []
    assert "data.staged" in event_kinds(copied)
    assert list(disk.iterdir()) == []
