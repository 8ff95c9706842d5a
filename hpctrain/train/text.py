"""Documents from files, Hugging Face data sets and Python's own topics (adapter over their readers).

A *document* is one piece of text that belongs together: a text file, one line of a jsonl file, one row of a table.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpctrain.errors import HpctrainError, MissingDependencyError, NotFoundError, RecipeError
from hpctrain.recipe.files import DATA_SUFFIXES, data_files
from hpctrain.recipe.schema import Data


def documents(data: Data) -> Iterator[str]:
    """All documents of a recipe's data, always in the same order.

    Raises:
        NotFoundError: a path matches nothing, or a data set cannot be found.
        RecipeError: a file's format is not known, or a line or column has no text.
    """
    if data.source == "python-docs":
        yield from _python_docs()
    elif data.source == "huggingface":
        yield from _huggingface(data)
    else:
        for path in find_files(data.paths):
            yield from _read_file(path, data.text_field)


def identity(data: Data) -> Any:
    """What the documents depend on, cheaply: plain JSON that changes when they do.

    Files count by path, size and modification time; a hub data set by its name only, so that a run keeps its data
    although the hub moves on.
    """
    if data.source == "python-docs":
        import hashlib

        digest = hashlib.sha256("\0".join(_python_docs()).encode())
        return ["python-docs", digest.hexdigest()]
    if data.source == "huggingface":
        local = Path(data.name or "")
        files = [_stamp(path) for path in sorted(local.rglob("*")) if path.is_file()] if local.is_dir() else []
        return ["huggingface", data.name, data.subset, data.split, data.text_field, files]
    return ["files", data.text_field, [_stamp(path) for path in find_files(data.paths)]]


def find_files(patterns: list[str]) -> list[Path]:
    """Expand files, directories (recursively) and globs, in a fixed order and without repetition.

    Raises:
        NotFoundError: one of them matches nothing.
        RecipeError: a file is named whose format is not known.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        files = data_files(str(Path(pattern).expanduser()))
        if not files:
            raise NotFoundError(
                f"{pattern!r} is no {' '.join(DATA_SUFFIXES)} file, nor a directory or pattern of them", where="data.paths",
                hint=f"on node {os.uname().nodename}, relative paths start at {Path.cwd()}",
            )
        found.update(dict.fromkeys(files))
    for file in found:
        if not file.name.endswith(DATA_SUFFIXES):
            raise RecipeError(f"{file}: not one of {' '.join(DATA_SUFFIXES)}", where="data.paths")
    return list(found)


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _read_file(path: Path, field: str) -> Iterator[str]:
    try:
        if path.name.endswith(".parquet"):
            yield from _parquet(path, field)
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _jsonl(path, field)
        else:
            yield path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=str(path)) from None
    except OSError as error:
        raise NotFoundError(f"cannot be read: {error.strerror or error}", where=str(path)) from None


def _jsonl(path: Path, field: str) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.name.endswith(".gz") else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                text = json.loads(line)[field]
            except ValueError as error:
                raise RecipeError(f"not JSON: {error}", where=f"{path}:{number}") from None
            except (KeyError, TypeError):
                raise RecipeError(
                    f"has no {field!r}", where=f"{path}:{number}", hint="data.text_field names the key that holds the text"
                ) from None
            if not isinstance(text, str):
                raise RecipeError(f"{field!r} is not text but {type(text).__name__}", where=f"{path}:{number}")
            yield text


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError("reading .parquet needs the package 'pyarrow'", hint="pip install pyarrow") from None
    with pq.ParquetFile(path) as table:
        if field not in table.schema_arrow.names:
            raise RecipeError(
                f"has no column {field!r}, only {', '.join(table.schema_arrow.names)}", where=str(path),
                hint="data.text_field names the column that holds the text",
            )
        for batch in table.iter_batches(columns=[field]):
            yield from (text for text in batch.column(0).to_pylist() if text)


def _huggingface(data: Data) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise MissingDependencyError(
            "data.source huggingface needs the package 'datasets'", hint="pip install datasets"
        ) from None
    try:
        rows = load_dataset(data.name, data.subset, split=data.split)
    except Exception as error:  # noqa: BLE001 - datasets raises dozens of classes; all mean that it could not be loaded
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotFoundError(f"cannot load the data set {data.name!r}: {first}", where="data.name") from None
    if data.text_field not in rows.column_names:
        raise RecipeError(
            f"the data set has no column {data.text_field!r}, only {', '.join(rows.column_names)}", where="data.text_field"
        )
    for row in rows.select_columns([data.text_field]):
        yield row[data.text_field] or ""


def _python_docs() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise HpctrainError("this Python comes without its topics text (pydoc_data)", where="data.source") from None
    for name in sorted(topics):
        yield topics[name]
