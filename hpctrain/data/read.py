"""The rows of a recipe's data, whatever they come from, each checked and with its place (service).

:func:`rows` is what everything that trains, measures or shows reads. It is the same every time: a set has one order, and
the rows that are kept out of training are its last ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from hpctrain.data.files import BadRow, Row, find_files, read_file
from hpctrain.data.formats import CHAT, TEXT, check_row, formats_of, guess_format, normalise
from hpctrain.errors import HpctrainError, RecipeError
from hpctrain.recipe.check_data import MADE
from hpctrain.recipe.schema import Data

__all__ = ["BadRow", "Row", "resolve_format", "rows", "scan", "split", "validation_rows"]


def rows(data: Data, method: str = "") -> Iterator[Row]:
    """All rows, in their order; each is one of :func:`resolve_format`'s.

    Args:
        method: what it is for; "" for any method.

    Raises:
        RecipeError: at the first row that is not what the format says, with ``file:line``.
        NotFoundError: a path matches nothing, or a data set cannot be loaded.
        MissingDependencyError: pyarrow or datasets is needed and not installed.
    """
    for item in scan(data, resolve_format(data, method)):
        if isinstance(item, BadRow):
            raise item.error()
        yield item


def split(data: Data, method: str = "") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows to train on and those to measure on, by ``validation_fraction`` from the end.

    Raises:
        RecipeError: as :func:`rows`, or there are none.
    """
    every = [row.values for row in rows(data, method)]
    if not every:
        raise RecipeError("the data holds no rows", where="data")
    training = len(every) - validation_rows(len(every), data.validation_fraction)
    return every[:training], every[training:]


def validation_rows(count: int, fraction: float) -> int:
    """How many of so many rows are kept out of training: at least one where any are wanted, and never all."""
    return min(count - 1, max(1, round(count * fraction))) if fraction and count > 1 else 0


def resolve_format(data: Data, method: str = "") -> str:
    """What a row is; ``auto`` looks at the method, and at the first row where the method leaves a choice.

    Raises:
        RecipeError: the method cannot learn from it.
        NotFoundError, MissingDependencyError: as :func:`rows`, where the first row is looked at.
    """
    can = formats_of(method)
    if data.format != "auto":
        if data.format not in can:
            message = f"method '{method}' learns from {' or '.join(can)}, not from {data.format}"
            raise RecipeError(message, where="data.format")
        return data.format
    if data.source in MADE:
        made = MADE[data.source]
        wanted = can if method else (CHAT, TEXT)
        return next((name for name in wanted if name in made), made[0])
    if len(can) == 1:
        return can[0]
    first = next(_read(data, only_text=False), None)
    if not isinstance(first, Row):
        return can[0]  # whoever reads on meets what is wrong with it
    return guess_format(method, first.values, text_field=data.text_field)


def scan(data: Data, format_: str, *, per_file: int | None = None) -> Iterator[Row | BadRow]:
    """All rows, good and bad: reading goes on behind a bad one.

    Args:
        format_: from :func:`resolve_format`.
        per_file: look at the first so many rows of each file only.

    Raises:
        RecipeError: a whole file is not what its name says.
        NotFoundError, MissingDependencyError: as :func:`rows`.
    """
    for item in islice(_read(data, only_text=format_ == TEXT, format_=format_, per_file=per_file), data.rows):
        yield item if isinstance(item, BadRow) else _checked(item, format_, data.text_field)


def _checked(row: Row, format_: str, text_field: str) -> Row | BadRow:
    values = row.values if format_ == TEXT else normalise(row.values, format_)
    problem = check_row(values, format_, text_field=text_field)
    if problem is None:
        return Row(values, row.where)
    lacks_text = format_ == TEXT and text_field not in values
    return BadRow(problem, row.where, "data.text_field names the key that holds the text" if lacks_text else "")


def _read(
    data: Data, *, only_text: bool, format_: str = "", per_file: int | None = None
) -> Iterator[Row | BadRow]:
    if data.source == "files":
        for path in find_files(data.paths):
            yield from islice(read_file(path, text_field=data.text_field, only_text=only_text), per_file)
        return
    if data.source == "huggingface":
        from hpctrain.data.hub import read_hub

        found: Iterator[dict[str, Any]] = read_hub(
            data, column=data.text_field if only_text else None, streaming=data.mode == "stream")
        name = f"{data.name} [{data.split}]"
    else:
        found, name = made_rows(data, format_ or MADE[data.source][0]), data.source
    for number, values in enumerate(islice(found, per_file), start=1):
        yield Row(values, f"{name} row {number}")


def made_rows(data: Data, format_: str) -> Iterator[dict[str, Any]]:
    """The rows of a source that needs no file.

    Raises:
        RecipeError: it cannot be made as such rows.
    """
    if format_ not in MADE[data.source]:
        raise RecipeError(f"'{data.source}' is {' or '.join(MADE[data.source])} only, not {format_}", where="data.source")
    if data.source == "arithmetic":
        from hpctrain.data.arithmetic import arithmetic_rows

        found = arithmetic_rows(format_, data.largest_number)
    elif data.source == "docstring-questions":
        from hpctrain.data.docstrings import docstring_rows

        found = docstring_rows(format_)
    else:
        found = ({"text": text} for text in python_docs())
    if format_ == TEXT and data.text_field != "text":
        return ({data.text_field: row["text"]} for row in found)
    return found


def python_docs() -> list[str]:
    """The topics text of the running Python, one document per topic.

    Raises:
        HpctrainError: this Python comes without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise HpctrainError("this Python comes without its topics text (pydoc_data)", where="data.source") from None
    return [topics[name] for name in sorted(topics)]
