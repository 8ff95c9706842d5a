"""Documents from files."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.recipe.schema import Data
from hpctrain.train.text import documents, identity


def files(*paths: Path | str, **more: str) -> Data:
    return Data.model_validate({"source": "files", "paths": [str(path) for path in paths], **more})


def test_every_format_gives_its_documents(tmp_path: Path) -> None:
    """A text file is one document; a jsonl file one per line, gzipped or not; a parquet file one per row."""
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    (tmp_path / "a.txt").write_text("eins")
    (tmp_path / "b.md").write_text("zwei")
    (tmp_path / "c.jsonl").write_text('{"text": "drei"}\n\n{"text": "vier"}\n')
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write('{"text": "fünf"}\n')
    pq.write_table(pa.table({"text": ["sechs", "sieben"]}), tmp_path / "e.parquet")
    (tmp_path / "ignored.csv").write_text("x")

    assert ["eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben"] == list(documents(files(tmp_path)))


def test_overlapping_patterns_count_once(tmp_path: Path) -> None:
    """A file that a directory and a glob both name is read once, and the order does not depend on the file system."""
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name)

    assert ["a.txt", "b.txt"] == list(documents(files(tmp_path / "*.txt", tmp_path)))


def test_bad_line_is_named(tmp_path: Path) -> None:
    """A line that is not JSON, or lacks the text, is an error with file and line number."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "ok"}\n{oops\n')
    with pytest.raises(RecipeError, match="not JSON") as caught:
        list(documents(files(path)))
    assert f"{path}:2" == caught.value.where

    path.write_text('{"content": "x"}\n')
    with pytest.raises(RecipeError, match="has no 'text'") as caught:
        list(documents(files(path)))
    assert f"{path}:1" == caught.value.where
    assert ["x"] == list(documents(files(path, text_field="content")))


def test_missing_column_lists_the_columns(tmp_path: Path) -> None:
    """A parquet file without the text column says which columns there are."""
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "e.parquet")

    with pytest.raises(RecipeError, match="no column 'text', only body"):
        list(documents(files(tmp_path / "e.parquet")))


def test_broken_encoding_is_named(tmp_path: Path) -> None:
    """A file that is not UTF-8 is an error that names the file and the byte."""
    (tmp_path / "a.txt").write_bytes(b"ab\xff")

    with pytest.raises(RecipeError, match=r"not UTF-8 text: .* at byte 2"):
        list(documents(files(tmp_path / "a.txt")))


def test_nothing_found_says_where_it_looked(tmp_path: Path) -> None:
    """A path that matches nothing is refused."""
    with pytest.raises(NotFoundError, match=r"nothing\.txt"):
        list(documents(files(tmp_path / "nothing.txt")))


def test_identity_changes_with_the_files(tmp_path: Path) -> None:
    """What the cache is keyed by is stable, and changes when a file does."""
    (tmp_path / "a.txt").write_text("x")
    before = identity(files(tmp_path))
    again = identity(files(tmp_path))
    (tmp_path / "a.txt").write_text("xy")

    assert before == again
    assert before != identity(files(tmp_path))


def test_python_docs_are_english_text() -> None:
    """The topics of the running Python hold some hundred kilobytes, in the same order every time."""
    data = Data(source="python-docs")
    texts = list(documents(data))

    assert sum(map(len, texts)) > 300_000
    assert texts == list(documents(data))
