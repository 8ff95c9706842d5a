"""Rows of files and of the sets that are made."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hpctrain.data.check import check_all, check_before_submission
from hpctrain.data.files import Row
from hpctrain.data.identity import data_hashes
from hpctrain.data.read import resolve_format, rows, split, validation_rows
from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.recipe.schema import Data, Recipe
from tests.unit.recipe.conftest import GOOD

CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
PAIR = {"prompt": "2 + 2 =", "completion": " 4"}


def write(path: Path, *lines: Any) -> Data:
    text = "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return Data(source="files", paths=[str(path)])


def test_rows_know_their_place(tmp_path: Path) -> None:
    """Each row comes with file and line, blank lines counted, a byte order mark and gzip understood."""
    data = write(tmp_path / "a.jsonl", "\ufeff" + json.dumps(CHAT), "", CHAT)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(CHAT) + "\n")
    data = data.model_copy(update={"paths": [str(tmp_path)]})

    found = list(rows(data, "sft"))

    assert [row.values for row in found] == [CHAT] * 3
    assert [row.where for row in found] == [f"{tmp_path}/a.jsonl:1", f"{tmp_path}/a.jsonl:3", f"{tmp_path}/b.jsonl.gz:1"]


@pytest.mark.parametrize(("line", "message"), [
    ("{", "not JSON: .*JSON over many lines"), ("[1]", "expected one JSON object per line, got a list"),
    ('{"messages": 4}', "'messages' is a number"), ('"x"', "got text"), ("[" * 100_000, "not JSON"),
])
def test_the_first_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    """Reading stops at the first bad line with file, line and what was expected there."""
    data = write(tmp_path / "a.jsonl", CHAT, line)

    with pytest.raises(RecipeError, match=message) as caught:
        list(rows(data, "sft"))
    assert caught.value.where == f"{tmp_path}/a.jsonl:2"


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    """A line that is not UTF-8 is an error with its number."""
    (tmp_path / "a.jsonl").write_bytes(json.dumps(CHAT).encode() + b"\n{\xff}\n")

    with pytest.raises(RecipeError, match=r"not UTF-8 text: .* at byte 1 of the line") as caught:
        list(rows(Data(source="files", paths=[str(tmp_path / "a.jsonl")]), "sft"))
    assert caught.value.where.endswith("a.jsonl:2")


@pytest.mark.parametrize(("content", "message"), [
    ('{"text": "é"}\n'.encode("utf-16"), "UTF-16 text"), (b'{"text": "a\\ud83d"}\n', "half of a character"),
    (b'[{"text": "a"}]', "a file that is one list is no jsonl"),
    (b'{"text": "a"}\n'.replace(b"\n", b"\r") * 2, "Extra data"),
])
def test_forms_that_are_no_jsonl_are_called_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    """Another encoding, text cut inside a character, a list: the message says which it is."""
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(RecipeError, match=message) as caught:
        list(rows(Data(source="files", paths=[str(tmp_path)], format="text")))
    assert caught.value.where == f"{tmp_path}/a.jsonl:1"


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path: Path) -> None:
    """A byte order mark and CRLF belong to no text; a whole character written as two escapes is one."""
    mark = "\ufeff".encode()
    (tmp_path / "a.jsonl").write_bytes(mark + b'{"text": "a"}\r\n{"text": "\\ud83d\\ude00"}\r\n\r\n')
    (tmp_path / "b.txt").write_bytes(mark + b"b")
    (tmp_path / "lost.jsonl").symlink_to(tmp_path / "nowhere")
    found = list(rows(Data(source="files", paths=[str(tmp_path)], format="text")))
    assert [row.values["text"] for row in found] == ["a", "\U0001f600", "b"]
    with pytest.raises(NotFoundError, match="is no"):
        list(rows(Data(source="files", paths=[str(tmp_path / "lost.jsonl")])))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    """A gzip file that breaks off, and a parquet file that is none, are errors that name the file."""
    whole = gzip.compress((json.dumps(CHAT) + "\n").encode() * 500)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RecipeError, match="is damaged"):
        list(rows(Data(source="files", paths=[str(tmp_path / "a.jsonl.gz")]), "sft"))

    pytest.importorskip("pyarrow")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RecipeError, match="is no parquet file"):
        list(rows(Data(source="files", paths=[str(tmp_path / "b.parquet")]), "sft"))

    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [f"{number} " * 99 for number in range(5000)]}), tmp_path / "c.parquet")
    broken = bytearray((tmp_path / "c.parquet").read_bytes())
    broken[4 : len(broken) // 2] = b"\xff" * (len(broken) // 2 - 4)
    (tmp_path / "c.parquet").write_bytes(broken)
    with pytest.raises(RecipeError, match="is damaged behind row 0") as caught:
        list(rows(Data(source="files", paths=[str(tmp_path / "c.parquet")]), "pretrain"))
    assert caught.value.where == f"{tmp_path}/c.parquet"


def test_plain_text_is_no_table(tmp_path: Path) -> None:
    """A text file where rows with keys are wanted says which files hold them."""
    (tmp_path / "a.txt").write_text("hello")

    with pytest.raises(RecipeError, match=r"rows with keys come from \.jsonl or \.parquet"):
        list(rows(Data(source="files", paths=[str(tmp_path / "a.txt")]), "dpo"))


def test_parquet_rows_are_as_in_jsonl(tmp_path: Path) -> None:
    """Conversations in a table lose the nulls that its columns need, and rows are counted from 1."""
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    call = {"role": "assistant", "content": "4", "name": "adder"}
    pq.write_table(pa.Table.from_pylist([CHAT, {"messages": [CHAT["messages"][0], call]}]), tmp_path / "a.parquet")

    found = list(rows(Data(source="files", paths=[str(tmp_path / "a.parquet")]), "sft"))

    assert found == [Row(CHAT, f"{tmp_path}/a.parquet row 1"),
                     Row({"messages": [CHAT["messages"][0], call]}, f"{tmp_path}/a.parquet row 2")]


def test_saved_data_sets_are_read(tmp_path: Path) -> None:
    """A local Hugging Face data set, of files or from save_to_disk, gives its rows."""
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict({"train": datasets.Dataset.from_list([PAIR])}).save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder/train.jsonl", PAIR)

    for name in ("saved", "folder"):
        data = Data(source="huggingface", name=str(tmp_path / name))
        assert list(rows(data, "sft")) == [Row(PAIR, f"{tmp_path / name} [train] row 1")]
    with pytest.raises(RecipeError, match="has no split 'test', only train"):
        list(rows(Data(source="huggingface", name=str(tmp_path / "saved"), split="test"), "sft"))
    with pytest.raises(NotFoundError, match="cannot load the data set"):
        list(rows(Data(source="huggingface", name=str(tmp_path / "nothing")), "sft"))


def test_auto_looks_at_the_first_row(tmp_path: Path) -> None:
    """For supervised fine-tuning the first row decides; other methods have one format only."""
    assert resolve_format(write(tmp_path / "a.jsonl", PAIR), "sft") == "prompt_completion"
    assert resolve_format(write(tmp_path / "b.jsonl", CHAT), "sft") == "chat"
    assert resolve_format(write(tmp_path / "c.jsonl", CHAT), "dpo") == "preference"
    assert resolve_format(Data(source="arithmetic"), "rlvr") == "prompts"
    assert resolve_format(Data(source="python-docs"), "pretrain") == "text"
    with pytest.raises(RecipeError, match="method 'dpo' learns from preference, not from chat"):
        resolve_format(Data(source="arithmetic", format="chat"), "dpo")


def test_validation_rows_come_from_the_end(tmp_path: Path) -> None:
    """The last rows are kept out of training: at least one, never all; and rows beyond the limit do not exist."""
    lines = [{"prompt": str(number)} for number in range(20)]
    data = write(tmp_path / "a.jsonl", *lines).model_copy(update={"validation_fraction": 0.1, "rows": 10})

    assert split(data, "rlvr") == (lines[:9], lines[9:10])
    assert [validation_rows(count, 0.9) for count in (0, 1, 2, 10)] == [0, 0, 1, 9]
    assert validation_rows(100, 0.0) == 0
    with pytest.raises(RecipeError, match="holds no rows"):
        split(write(tmp_path / "b.jsonl", ""), "rlvr")


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    """A check of the whole set goes on behind bad rows, counts them and keeps the first."""
    data = write(tmp_path / "a.jsonl", CHAT, "{", CHAT, PAIR)

    found = check_all(data, "sft")

    assert (found.rows, found.bad_rows, found.format) == (4, 2, "chat")
    assert [bad.where[-2:] for bad in found.problems] == [":2", ":4"]
    assert check_all(data, "sft", at_most=2).rows == 2
    assert found.longest == (7, f"{tmp_path}/a.jsonl:1")


def recipe(data: Data, **more: Any) -> Recipe:
    model = {"path": "/m"}
    return Recipe.model_validate({**GOOD, "model": model, "data": data.model_dump(), "method": "rlvr", **more})


def test_a_submission_looks_at_the_first_rows_of_each_file(tmp_path: Path) -> None:
    """A bad row, or one without the answer that a reward compares with, is found before the job is queued."""
    write(tmp_path / "a.jsonl", {"prompt": "x", "answer": 1})
    write(tmp_path / "b.jsonl", {"prompt": "x"}, {"question": "x"})
    data = Data(source="files", paths=[str(tmp_path)])

    with pytest.raises(RecipeError, match="has no 'prompt'") as caught:
        check_before_submission(recipe(data))
    assert caught.value.where == f"{tmp_path}/b.jsonl:2"
    with pytest.raises(RecipeError, match="has no 'answer', which reward 'math' compares with") as caught:
        check_before_submission(recipe(data, rewards=[{"kind": "math"}]))
    assert caught.value.where == f"{tmp_path}/b.jsonl:1"
    assert check_before_submission(recipe(Data(source="arithmetic"))) == []
    assert "when the job starts" in check_before_submission(recipe(Data(source="huggingface", name="a/b")))[0]


def test_rewards_of_a_suite_with_rows_of_its_own_ask_nothing_of_the_data(tmp_path: Path) -> None:
    """What a reward compares with must be in the rows that it judges, and not in those that are only learned."""
    data = write(tmp_path / "a.jsonl", PAIR).model_copy(update={"validation_fraction": 0.1})
    measured = {"method": "sft", "rewards": [{"kind": "math"}]}

    own = {"suites": [{"kind": "reward", "paths": ["/own.jsonl"]}]}
    assert check_before_submission(recipe(data, **measured, evaluate=own)) == []
    with pytest.raises(RecipeError, match="has no 'answer'"):
        check_before_submission(recipe(data, **measured, evaluate={"suites": [{"kind": "reward"}]}))


def test_hashes_are_of_contents(tmp_path: Path) -> None:
    """The same contents elsewhere are the same data; a changed byte, or another choice of rows, is not."""
    one, two = write(tmp_path / "a.jsonl", CHAT), write(tmp_path / "b.jsonl", CHAT)
    first = data_hashes(one, known=tmp_path / "known")

    assert first["sha256"] == data_hashes(two)["sha256"]
    assert data_hashes(one, known=tmp_path / "known") == first
    assert first["sha256"] != data_hashes(one.model_copy(update={"rows": 1}))["sha256"]
    write(tmp_path / "a.jsonl", PAIR)
    assert first["sha256"] != data_hashes(one, known=tmp_path / "known")["sha256"]
    assert data_hashes(Data(source="huggingface", name="a/b"))["sha256"] is None
    sets = [Data(source="arithmetic"), Data(source="arithmetic", largest_number=9), Data(source="docstring-questions")]
    assert len({data_hashes(data)["sha256"] for data in sets}) == 3
