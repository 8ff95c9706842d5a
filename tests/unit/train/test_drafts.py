"""What several processes make at once, and what a killed one leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpctrain.train.drafts import draft_of, put_in_place, remove_abandoned

pytest.importorskip("numpy")
PATIENCE_S = 120.0

ROWS = """
import json, pathlib, sys, time
from hpctrain.recipe.schema import Data
from hpctrain.train.tune import row_files
me, folder = sys.argv[1], pathlib.Path(sys.argv[3])
save, saved, done = row_files._save, folder / "second-has-saved", folder / "shared/rows-1/facts.json"

def slow(part, target, pack):
    while me == "first" and not saved.exists():
        time.sleep(0.01)
    found = save(part, target, pack)
    while me == "second" and not done.exists():
        saved.touch()
        time.sleep(0.01)
    return found

row_files._save = slow
data = Data(source="files", paths=[str(folder / "a.jsonl")], format="text")
encode = lambda values, where: {"input_ids": [1, 2, 3]}
made = row_files.write_rows("sft", data, row_files.Encoding(encode, None), folder / "shared/rows-1", lambda rows: None)
print(json.dumps(made))
"""
TEXT = """
import pathlib, sys, time
from hpctrain.recipe.schema import Tokenizer
from hpctrain.train import tokens
from hpctrain.train.tokenizers import build_tokenizer
me, other, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])

def documents():
    yield "hello"
    (folder / f"begun-{me}").touch()
    while not (folder / f"begun-{other}").exists():
        time.sleep(0.01)
    yield "world"

print(tokens.prepare(folder / "shared", "k", documents, build_tokenizer(Tokenizer(), None)).tokens)
"""


def start(script: str, me: str, other: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script, me, other, str(folder)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.02)


def test_two_processes_may_prepare_the_same_rows_at_once(tmp_path: Path) -> None:
    """One puts its folder in place in the middle of the other's work: both end well, and one whole folder is there."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "shared").mkdir()
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 3)

    both = [start(ROWS, "first", "", tmp_path), start(ROWS, "second", "", tmp_path)]
    said = [process.communicate(timeout=PATIENCE_S) for process in both]

    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["rows-1"]
    assert len(datasets.load_from_disk(str(tmp_path / "shared/rows-1/training"))) == 3


def test_a_killed_process_leaves_nothing_that_stays(tmp_path: Path) -> None:
    """What a process killed in the middle has left is removed by the next ones, which make the tokens, even two at once."""
    killed = start(TEXT, "killed", "nobody", tmp_path)
    wait_for(tmp_path / "begun-killed")
    killed.kill()
    killed.communicate(timeout=PATIENCE_S)
    assert any(path.name.startswith(".draft-") for path in (tmp_path / "shared").iterdir())

    both = [start(TEXT, "a", "b", tmp_path), start(TEXT, "b", "a", tmp_path)]
    said = [process.communicate(timeout=PATIENCE_S) for process in both]

    assert [out.strip() for out, _ in said] == ["12", "12"], said
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == ["tokens-k.bin", "tokens-k.json"]


def test_a_draft_in_use_is_left_alone(tmp_path: Path) -> None:
    """Whoever cleans up leaves the drafts of living processes, and a second folder of a name gives way to the first."""
    with draft_of(tmp_path / "x") as first, draft_of(tmp_path / "x") as second:
        for number, draft in enumerate((first, second)):
            draft.mkdir()
            (draft / "number").write_text(str(number))
        assert remove_abandoned(tmp_path) == []
        assert put_in_place(first, tmp_path / "x")
        assert not put_in_place(second, tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x/number").read_text() == "0"
