"""What data a run was trained on: stamps that are cheap, and hashes of the contents (adapter over the file system).

*Stamps* (path, size, time of the last change) say whether a file may have changed. *Hashes* say what it holds, wherever it
lies; :mod:`hpctrain.hashing` keeps them, so that a set is read for its hash only once.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hpctrain.data.files import find_files
from hpctrain.errors import NotFoundError
from hpctrain.hashing import HashCache, Progress
from hpctrain.recipe.schema import Data


def source_files(data: Data) -> list[Path]:
    """The local files that the rows come from; none for a hub id or what is made.

    Raises:
        NotFoundError, RecipeError: as :func:`hpctrain.data.files.find_files`.
    """
    if data.source == "files":
        return find_files(data.paths)
    local = Path(data.name or "")
    if data.source == "huggingface" and data.name and local.is_dir():
        return [path for path in sorted(local.rglob("*")) if path.is_file()]
    return []


def stamps(data: Data) -> Any:
    """What the documents depend on, cheaply: plain JSON that changes when they do.

    Files count by path, size and modification time; a hub data set by its name only, so that a run keeps its data
    although the hub moves on.
    """
    more = _choices(data)
    if data.source == "python-docs":
        return ["python-docs", _hash_of_rows(data), *more]
    if data.source == "huggingface":
        files = [stamp(path) for path in source_files(data)]
        return ["huggingface", data.name, data.subset, data.split, data.text_field, files, *more]
    if data.source == "files":
        return ["files", data.text_field, [stamp(path) for path in source_files(data)], *more]
    return [data.source, _hash_of_rows(data), *more]


def data_hashes(data: Data, *, known: Path | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """What the data is, by its contents: the record of a run's lineage, and the key of what is prepared from it.

    Args:
        known: directory in which hashes are kept, see :class:`hpctrain.hashing.HashCache`; None reads everything each time.
        progress: told of bytes that were read.

    Returns:
        ``source``; ``sha256`` of everything that decides the rows (None for a hub id, whose contents are not here);
        ``files`` with ``path``, ``bytes`` and ``sha256`` each; for a hub id its ``name``, ``subset`` and ``split``.

    Raises:
        NotFoundError: a file is not there, or went away.
    """
    found: dict[str, Any] = {"source": data.source}
    if data.source == "huggingface":
        found |= {"name": data.name, "subset": data.subset, "split": data.split}
    files: list[dict[str, Any]] = []
    for path in source_files(data):
        size, digest = path.stat().st_size, file_hash(path, known=known, progress=progress)
        files.append({"path": str(path), "bytes": size, "sha256": digest})
    choices = [data.text_field, data.subset, data.split, *_choices(data)]
    if files:
        # Not their paths: the same contents are the same data, wherever they lie.
        parts = [choices, [[Path(item["path"]).suffix, item["sha256"]] for item in files]]
        return found | {"sha256": _digest(parts), "files": files}
    if data.source == "huggingface":
        return found | {"sha256": None, "files": []}
    return found | {"sha256": _digest([choices, _hash_of_rows(data)]), "files": []}


def file_hash(path: Path, *, known: Path | None = None, progress: Progress | None = None) -> str:
    """SHA-256 of a file's contents; read only if ``known`` has none for the file as it is.

    Raises:
        NotFoundError: it cannot be read.
    """
    try:
        return HashCache(known).hash(path, progress)
    except OSError as error:
        raise NotFoundError(f"cannot be read: {error.strerror or error}", where=str(path)) from None


def stamp(path: Path) -> list[Any]:
    """Path, size and time of the last change of a file.

    Raises:
        NotFoundError: it is not there.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise NotFoundError(f"cannot be read: {error.strerror or error}", where=str(path)) from None
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _choices(data: Data) -> list[Any]:
    """What else decides the rows, where it is not what it is by default: then nothing changes for older runs."""
    chosen = {"rows": data.rows, "largest_number": data.largest_number if data.source == "arithmetic" else None}
    return [{name: value for name, value in chosen.items() if value is not None}] if any(chosen.values()) else []


def _hash_of_rows(data: Data) -> str:
    """Of a source that is made: what this version of it makes."""
    from hpctrain.data.read import made_rows, python_docs

    if data.source == "python-docs":
        return hashlib.sha256("\0".join(python_docs()).encode()).hexdigest()
    digest = hashlib.sha256()
    for row in made_rows(data.model_copy(update={"text_field": "text"}), "prompts"):
        digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
