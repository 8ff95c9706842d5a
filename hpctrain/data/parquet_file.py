"""Rows of a parquet file (adapter over pyarrow)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpctrain.errors import MissingDependencyError, RecipeError, first_line

_BATCH_ROWS = 1024


def read_parquet(path: Path, *, column: str | None = None, skip: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number counted from 1, values) of each row.

    Args:
        column: read only this one, and leave out rows where it is null or empty.
        skip: yielded rows to leave out at the beginning.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        RecipeError: it is no parquet file, or has no such column.
    """
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError("reading .parquet needs the package 'pyarrow'", hint="pip install pyarrow") from None
    try:
        table = pq.ParquetFile(path)
    except pyarrow.ArrowException as error:
        first = first_line(error)
        raise RecipeError(f"is no parquet file: {first}", where=str(path), hint="copy or make it again") from None
    with table:
        names = table.schema_arrow.names
        if column is not None and column not in names:
            raise RecipeError(
                f"has no column {column!r}, only {', '.join(names)}", where=str(path),
                hint="data.text_field names the column that holds the text",
            )
        number = 0
        batches = table.iter_batches(batch_size=_BATCH_ROWS, columns=None if column is None else [column])
        while True:
            try:
                batch = next(batches, None)
            except (pyarrow.ArrowException, OSError) as error:
                raise RecipeError(f"is damaged behind row {number}: {first_line(error)}", where=str(path),
                                  hint="copy or make it again") from None
            if batch is None:
                return
            for values in batch.to_pylist():
                number += 1
                if column is not None and not values[column]:
                    continue
                if skip:
                    skip -= 1
                else:
                    yield number, values
