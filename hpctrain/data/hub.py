"""Rows of a Hugging Face data set, from a local directory, the cache or the hub (adapter over ``datasets``)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpctrain.errors import HpctrainError, MissingDependencyError, NotFoundError, RecipeError, first_line
from hpctrain.hub import is_unreached, load_error
from hpctrain.recipe.schema import Data

TRIES = 6
"""Times that a stream is opened again at the row it has come to, beside the tries of the libraries that read it."""
PAUSE_S = 1.0
"""Half of the wait before the first of them; each is twice as long as the one before."""
_log = logging.getLogger(__name__)


def read_hub(data: Data, *, column: str | None = None, streaming: bool = False, skip: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a data set, in its order.

    Args:
        data: with ``name``: a hub id, a directory of files, or one that ``save_to_disk`` made.
        column: read only this one; rows without it are given with "".
        streaming: read while going, and keep nothing on disk. When the network fails in the middle, the stream is opened
            again :data:`TRIES` times, with two minutes between them in all.
        skip: rows to leave out at the beginning.

    Raises:
        MissingDependencyError: ``datasets`` is not installed.
        NotFoundError: the set, its subset or split cannot be loaded.
        RecipeError: there is no such column, or a row cannot be read.
    """
    done = failures = 0
    local = Path(data.name or "").is_dir()
    while True:
        try:
            with _complaints(keep=local) as complaints:
                for row in _rows(data, column=column, streaming=streaming, skip=skip + done):
                    yield row
                    done, failures = done + 1, 0
            return
        except HpctrainError:
            raise
        except Exception as error:  # noqa: BLE001 - what reads the rows raises dozens of classes
            failures += 1
            if not (streaming and skip + done and is_unreached(error)) or failures > TRIES:
                raise _unreadable(error, complaints, data, skip + done) from None
            _log.warning("the hub does not answer (%s); row %d of %s is tried again in %d s, %d of %d", first_line(error),
                         skip + done + 1, data.name, PAUSE_S * 2**failures, failures, TRIES)
            time.sleep(PAUSE_S * 2**failures)


def _unreadable(error: Exception, complaints: Sequence[str], data: Data, done: int) -> HpctrainError:
    if is_unreached(error):
        again = f" (after {TRIES} more tries behind row {done})" if done else ""
        found = load_error(error, "data set", data.name or "", where="data.name", env=os.environ)
        return NotFoundError(found.message + again, where=found.where, hint=found.advice)
    what = first_line(ValueError(complaints[0])) if complaints else first_line(error)
    return RecipeError(f"cannot be read behind row {done}: {what}", where=f"{data.name} [{data.split}]",
                       hint="load it again: its files may be damaged, or its columns differ from file to file")


def _rows(data: Data, *, column: str | None, streaming: bool, skip: int) -> Iterator[dict[str, Any]]:
    rows = _load(data, streaming=streaming)
    names = rows.column_names or []
    if column is not None and names and column not in names:
        raise RecipeError(f"the data set has no column {column!r}, only {', '.join(names)}", where="data.text_field")
    if skip:
        rows = rows.skip(skip)
    if column is None:
        yield from (dict(row) for row in rows)
        return
    for row in rows.select_columns([column]) if names else rows:
        if column not in row:  # a stream learns its columns while it is read
            raise RecipeError(f"the data set has no column {column!r}, only {', '.join(row)}", where="data.text_field")
        yield {column: row[column] or ""}


def _load(data: Data, *, streaming: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingDependencyError(
            "data.source huggingface needs the package 'datasets'", hint="pip install datasets"
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    name = data.name or ""
    with _complaints(keep=True) as complaints:
        try:
            if is_saved(name):
                return _saved(name, data, streaming=streaming)
            return datasets.load_dataset(name, data.subset, split=data.split, streaming=streaming)
        except HpctrainError:
            raise
        except Exception as error:  # noqa: BLE001 - datasets raises dozens of classes; all mean that it could not be loaded
            if not Path(name).is_dir():
                raise load_error(error, "data set", name, where="data.name", env=os.environ) from None
            what = first_line(ValueError(complaints[0])) if complaints else first_line(error)
            raise NotFoundError(f"cannot be read: {what}", where=name, hint="copy or make it again; files of one set must "
                                "have the same columns") from None


@contextlib.contextmanager
def _complaints(*, keep: bool) -> Iterator[list[str]]:
    """What ``datasets`` logs as errors, which says more than what it raises: the name of the file.

    Args:
        keep: or leave it in the log, and give nothing.
    """
    found: list[str] = []
    if not keep:
        yield found
        return

    class Keep(logging.Handler):
        """Keeps messages."""

        def emit(self, record: logging.LogRecord) -> None:
            """Keep one."""
            found.append(record.getMessage())

    logger = logging.getLogger("datasets")
    before, logger.handlers = logger.handlers, [Keep(logging.ERROR)]
    try:
        yield found
    finally:
        logger.handlers = before


def is_saved(name: str) -> bool:
    """The directory was made by ``save_to_disk``."""
    folder = Path(name)
    one_split = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    return one_split or (folder / "dataset_dict.json").is_file()


def _saved(name: str, data: Data, *, streaming: bool) -> Any:
    from datasets import load_from_disk

    folder = Path(name)
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        if data.split not in splits:
            raise RecipeError(f"has no split {data.split!r}, only {', '.join(splits)}", where=name,
                              hint="data.split names the one to read")
        folder /= data.split
    files = _files_of(folder)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise NotFoundError(f"is incomplete: {len(missing)} of {len(files)} files are missing, the first is {missing[0]}",
                            where=str(folder), hint="copy or make it again")
    if not files:
        raise RecipeError("the data set holds no rows", where=str(folder))
    found = load_from_disk(str(folder))
    return found.to_iterable_dataset() if streaming else found


def _files_of(folder: Path) -> list[str]:
    """The files that one split says it has."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise NotFoundError("cannot be read, so the data set is damaged", where=str(folder / "state.json"),
                            hint="copy or make it again") from None
