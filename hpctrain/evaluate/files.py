"""Where results are kept: ``evaluation.json``, ``evaluation.html`` and one file of records per model and suite
(adapter over the file system).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError
from hpctrain.evaluate.page import render
from hpctrain.evaluate.results import Evaluation
from hpctrain.files import make_private_dir, read_json_object, read_jsonl, write_atomic, write_json_atomic

JSON, HTML, RECORDS = "evaluation.json", "evaluation.html", "evaluation"
_TRY = "try.json"


def write(folder: Path, evaluation: Evaluation, *, page: bool) -> None:
    """Replace ``evaluation.json``, and the page where it is wanted.

    Raises:
        StorageError: it cannot be written.
    """
    write_json_atomic(folder / JSON, evaluation.to_json(), durable=False)
    if page:
        write_atomic(folder / HTML, render(evaluation), durable=False)


def read(folder: Path) -> Evaluation | None:
    """The results of a folder, None where there are none or they cannot be read."""
    try:
        return Evaluation.from_json(json.loads((folder / JSON).read_bytes()))
    except (OSError, ValueError):
        return None


def require(folder: Path) -> Evaluation:
    """The results of a folder.

    Raises:
        NotFoundError: there are none.
    """
    found = read(folder)
    if found is None:
        raise NotFoundError(f"there is no {JSON} that can be read", where=str(folder),
                            hint="measure first: hpctrain evaluate RUN --suite KIND")
    return found


def write_records(folder: Path, label: str, suite: str, records: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per row: what the model wrote, and what was found.

    Raises:
        StorageError: it cannot be written.
    """
    make_private_dir(folder / RECORDS)
    lines = "".join(json.dumps(record, ensure_ascii=False, default=str) + "\n" for record in records)
    write_atomic(_records(folder, label, suite), lines.encode("utf-8", errors="backslashreplace"), durable=False)


def read_records(folder: Path, label: str, suite: str) -> dict[int, dict[str, Any]]:
    """Records by row; empty where there are none that can be read."""
    try:
        return {int(record["row"]): record for record in read_jsonl(_records(folder, label, suite))}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def begin_try(folder: Path, what: str) -> int:
    """Note that something is now measured; how many times in a row it was begun and came to no end, this one included.

    Raises:
        StorageError: it cannot be written.
    """
    file = make_private_dir(folder / RECORDS) / _TRY
    before = read_json_object(file)
    count = before.get("count") if before.get("what") == what else 0
    tries = (count if isinstance(count, int) else 0) + 1
    write_json_atomic(file, {"what": what, "count": tries}, durable=False)
    return tries


def end_try(folder: Path) -> None:
    """It came to an end, whichever."""
    (folder / RECORDS / _TRY).unlink(missing_ok=True)


def _records(folder: Path, label: str, suite: str) -> Path:
    def word(text: str) -> str:
        return re.sub(r"[^A-Za-z0-9_+-]", "_", text)[:80] or "_"

    return folder / RECORDS / f"{word(label)}.{word(suite)}.jsonl"
