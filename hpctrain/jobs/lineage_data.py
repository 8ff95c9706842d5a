"""What the data of a run is: files, a data set, or made from Python's own texts (adapter over the file system)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.hashing import HashCache, Progress, hash_files, hash_text, together
from hpctrain.jobs.lineage import DATA, MAX_FILES, Record
from hpctrain.jobs.lineage_model import hub_snapshot
from hpctrain.recipe.files import data_files

READ_AT_MOST_BYTES = 64 * 2**30
"""Larger sets count by names, sizes and times: reading them once more would keep the file system from the training."""


def look_at_data(
    data: Mapping[str, Any], cache: HashCache, *, read: bool = True, made_sha256: str = "", progress: Progress | None = None
) -> Record:
    """A recipe's ``data`` section as an input of a record.

    Args:
        data: resolved; paths are absolute.
        read: False takes hashes from the cache only.
        made_sha256: for data that is made from the running Python: of what was made, "" if nobody knows.

    Returns:
        ``kind``: ``files``, ``data set`` or ``made``; ``name``; ``sha256`` and what it is ``of``: ``content``, or ``names,
        sizes and times``; ``size_bytes``; ``file_count``; ``files``; for a hub id its ``revision``.
    """
    source = str(data.get("source") or "")
    if source == "files":
        patterns = [str(path) for path in data.get("paths") or []]
        files = list(dict.fromkeys(file for pattern in patterns for file in _files(pattern)))
        name = ", ".join(Path(pattern).name for pattern in patterns[:3]) + (", ..." if len(patterns) > 3 else "")
        return {"role": DATA, "kind": "files", "name": name, "paths": patterns, **_hashed(files, cache, read, progress)}
    if source == "huggingface":
        return _data_set(data, cache, read, progress)
    return {"role": DATA, "kind": "made", "name": source, "sha256": made_sha256, "of": "content"}


def _data_set(data: Mapping[str, Any], cache: HashCache, read: bool, progress: Progress | None) -> Record:
    name = str(data.get("name") or "")
    entry: Record = {
        "role": DATA, "kind": "data set", "name": name, "subset": data.get("subset"), "split": data.get("split"),
        "revision": "",
    }
    folder = Path(name).expanduser()
    if not folder.is_dir():
        snapshot, entry["revision"] = hub_snapshot(name, "datasets")
        if snapshot is None:
            return {**entry, **_hashed([], cache, read, progress)}
        folder = snapshot
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {**entry, **_hashed(files, cache, read, progress)}


def _files(pattern: str) -> list[Path]:
    try:
        return data_files(str(Path(pattern).expanduser()))
    except OSError:
        return []


def _hashed(files: list[Path], cache: HashCache, read: bool, progress: Progress | None) -> Record:
    facts: Record = {"sha256": "", "of": "content", "size_bytes": 0, "file_count": len(files), "files": []}
    if not files:
        return facts
    base = Path(os.path.commonpath([file.parent for file in files]))
    names = [str(file.relative_to(base)) for file in files]
    try:
        looks = [file.stat() for file in files]
        facts["size_bytes"] = sum(status.st_size for status in looks)
        if facts["size_bytes"] > READ_AT_MOST_BYTES:
            stamps = sorted(zip(names, looks, strict=True), key=lambda stamp: stamp[0])
            text = "".join(f"{status.st_size} {status.st_mtime_ns} {name}\n" for name, status in stamps)
            return {**facts, "sha256": hash_text(text), "of": "names, sizes and times"}
        hashed = hash_files(base, names, cache, read=read, progress=progress)
    except OSError:
        return facts  # taken away meanwhile; the trainer itself will say so
    return {**facts, "sha256": together(hashed), "files": [file.to_json() for file in hashed[:MAX_FILES]]}
