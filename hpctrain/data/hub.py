"""Rows of a Hugging Face data set, from a local directory, the cache or the hub (adapter over ``datasets``)."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
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
        streaming: read while going, and keep nothing on disk; a network that fails in the middle is waited for, two minutes
            at most.
        skip: rows to leave out at the beginning.

    Raises:
        MissingDependencyError: ``datasets`` is not installed.
        NotFoundError: the set, its subset or split cannot be loaded.
        RecipeError: there is no such column, or a row cannot be read.
    """
    done = failures = 0
    while True:
        try:
            for row in _rows(data, column=column, streaming=streaming, skip=skip + done):
                yield row
                done, failures = done + 1, 0
            return
        except HpctrainError:
            raise
        except Exception as error:  # noqa: BLE001 - what reads the rows raises dozens of classes
            failures += 1
            if not (streaming and done and is_unreached(error)) or failures > TRIES:
                raise _unreadable(error, data, skip + done) from None
            _log.warning("the hub does not answer (%s); row %d of %s is tried again in %d s, %d of %d", first_line(error),
                         skip + done + 1, data.name, PAUSE_S * 2**failures, failures, TRIES)
            time.sleep(PAUSE_S * 2**failures)


def _unreadable(error: Exception, data: Data, done: int) -> HpctrainError:
    if is_unreached(error):
        again = f" (after {TRIES} more tries behind row {done})" if done else ""
        found = load_error(error, "data set", data.name or "", where="data.name", env=os.environ)
        return NotFoundError(found.message + again, where=found.where, hint=found.advice)
    return RecipeError(f"cannot be read behind row {done}: {first_line(error)}", where=f"{data.name} [{data.split}]",
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
    else:
        yield from ({column: row[column] or ""} for row in (rows.select_columns([column]) if names else rows))


def _load(data: Data, *, streaming: bool) -> Any:
    try:
        from datasets import load_dataset, load_from_disk
    except ImportError:
        raise MissingDependencyError(
            "data.source huggingface needs the package 'datasets'", hint="pip install datasets"
        ) from None
    try:
        if is_saved(data.name or ""):
            return _saved(load_from_disk(data.name), data, streaming=streaming)
        return load_dataset(data.name, data.subset, split=data.split, streaming=streaming)
    except RecipeError:
        raise
    except Exception as error:  # noqa: BLE001 - datasets raises dozens of classes; all mean that it could not be loaded
        raise load_error(error, "data set", data.name or "", where="data.name", env=os.environ) from None


def is_saved(name: str) -> bool:
    """The directory was made by ``save_to_disk``."""
    folder = Path(name)
    one_split = all((folder / name).is_file() for name in ("state.json", "dataset_info.json"))
    return one_split or (folder / "dataset_dict.json").is_file()


def _saved(found: Any, data: Data, *, streaming: bool) -> Any:
    if hasattr(found, "keys"):  # a dictionary of splits
        if data.split not in found:
            raise RecipeError(f"has no split {data.split!r}, only {', '.join(found)}", where=f"{data.name}")
        found = found[data.split]
    return found.to_iterable_dataset() if streaming else found
