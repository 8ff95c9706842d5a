"""Finds data files and reads their rows, each with its place (adapter over the file system)."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.recipe.files import DATA_SUFFIXES, data_files, saved_hint


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set.

    Attributes:
        values: key to value, as the file has them.
        where: ``file:line`` or ``file row N``, counted from 1.
    """

    values: dict[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used; reading can go on behind it.

    Attributes:
        message: what is wrong and what was expected.
        where: as in :class:`Row`.
        hint: what to do about it.
    """

    message: str
    where: str
    hint: str = ""

    def error(self) -> RecipeError:
        """As an error to raise."""
        return RecipeError(self.message, where=self.where, hint=self.hint or HINT)


_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape for half of a character; two of them make a whole one."""
HINT = "'hpctrain data validate FILE' lists all bad rows; docs/data.md shows what rows look like"


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Expand files, directories (recursively) and globs, in a fixed order and without repetition.

    Raises:
        NotFoundError: one of them matches nothing.
        RecipeError: a file is named whose format is not known.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        files = data_files(str(Path(pattern).expanduser()))
        if not files and Path(pattern).is_dir():
            raise NotFoundError(f"{pattern} holds none of {' '.join(DATA_SUFFIXES)}", where="data.paths",
                                hint=saved_hint(Path(pattern)))
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


def read_file(path: Path, *, text_field: str, only_text: bool, skip: int = 0) -> Iterator[Row | BadRow]:
    """The rows of one file, in its order.

    Args:
        text_field: key under which the text of a ``.txt`` or ``.md`` file is given.
        only_text: only that key is wanted; tables then read no other column, and leave out rows without text.
        skip: rows to leave out at the beginning; they are not looked at.

    Raises:
        RecipeError: the file is not what its name says, or not UTF-8.
        NotFoundError: it cannot be read.
    """
    try:
        if path.name.endswith(".parquet"):
            from hpctrain.data.parquet_file import read_parquet

            yield from (Row(values, f"{path} row {number}") for number, values in read_parquet(
                path, column=text_field if only_text else None, skip=skip))
        elif path.name.endswith((".jsonl", ".jsonl.gz")):
            yield from _read_jsonl(path, skip)
        elif skip == 0:
            yield _read_text(path, text_field, only_text=only_text)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        hint = "copy or make it again; 'gzip -t' tests it"
        raise RecipeError(f"is damaged: {error}", where=str(path), hint=hint) from None
    except OSError as error:
        raise NotFoundError(f"cannot be read: {error.strerror or error}", where=str(path)) from None


def _read_text(path: Path, field: str, *, only_text: bool) -> Row | BadRow:
    if not only_text:
        return BadRow(f"a {path.suffix} file is plain text; rows with keys come from .jsonl or .parquet", str(path))
    try:
        return Row({field: path.read_text(encoding="utf-8-sig")}, str(path))
    except UnicodeDecodeError as error:
        raise RecipeError(f"not UTF-8 text: {error.reason} at byte {error.start}", where=str(path)) from None


def _read_jsonl(path: Path, skip: int) -> Iterator[Row | BadRow]:
    rows = 0
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            rows += 1
            if rows > skip:
                yield _parse_line(line, f"{path}:{number}", first=number == 1)


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _parse_line(line: bytes, where: str, *, first: bool) -> Row | BadRow:
    try:
        value = json.loads(line.decode("utf-8-sig" if first else "utf-8"))
        if _SURROGATE.search(line):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        if first and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return BadRow("UTF-16 text, and UTF-8 is expected", where, "'iconv -f UTF-16 -t UTF-8 FILE' converts it")
        return BadRow(f"not UTF-8 text: {error.reason} at byte {error.start} of the line", where)
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        return BadRow(f"holds {half!r}, which is half of a character: text was cut in the middle of one", where)
    except (ValueError, RecursionError) as error:
        return BadRow(f"not JSON: {error}{_what_instead(line)}", where)
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "a single value"
        whole = "; a file that is one list is no jsonl: write each of its objects on a line of its own" if first else ""
        return BadRow(f"expected one JSON object per line, got {kind}{whole if kind == 'a list' else ''}", where)
    return Row(value, where)


def _what_instead(line: bytes) -> str:
    """The two mistakes that are made most."""
    text = line.strip()
    if text in (b"[", b"{"):
        return "; expected one whole JSON object per line (this looks like JSON over many lines)"
    return "; expected one JSON object per line"
