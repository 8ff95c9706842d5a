"""What a model is that a run starts from: another run's work, a plain directory, a hub id (adapter over the file system)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

from hpctrain.hashing import HashCache, Hashed, Progress, hash_files, together
from hpctrain.jobs.lineage import MAX_FILES, MODEL_FILE, Record, Wanted, brief, is_weights

ReadRun = Callable[[Path], Record | None]
"""The whole record of a run directory, or None for any other directory."""


def look_at(
    wanted: Wanted, cache: HashCache, read_run: ReadRun, *, read: bool = True, progress: Progress | None = None
) -> Record:
    """One model as an input of a record.

    Args:
        read: False takes hashes from the cache only and reads no weights.

    Returns:
        ``role``; ``kind``: ``run``, ``directory``, ``hub``, ``endpoint`` or ``missing``; ``name``; ``path``; ``revision`` of
        a hub id; ``sha256``, ``size_bytes`` and ``files`` of its weights; ``state``; and ``record``, brief, of the run that
        made it. ``state`` compares the weights with what that run recorded when it saved them: ``as saved``, ``changed``,
        or "" where one of the two is not known.
    """
    if wanted.endpoint:
        return {"role": wanted.role, "kind": "endpoint", "name": wanted.model, "path": wanted.endpoint}
    folder = Path(wanted.path).expanduser()
    entry: Record = {"role": wanted.role, "kind": "directory", "name": folder.name, "path": wanted.path, "revision": ""}
    if not folder.is_dir():
        snapshot, revision = hub_snapshot(wanted.path)
        if folder.is_absolute() or (snapshot is None and not _is_hub_id(wanted.path)):
            return {**entry, "kind": "missing", "state": "", **facts_of([])}
        entry |= {"kind": "hub", "name": wanted.path, "revision": revision}
        if snapshot is None:
            return {**entry, "state": "", **facts_of([])}
        folder = snapshot
    hashed = weights(folder, cache, read=read, progress=progress)
    entry |= facts_of(hashed)
    record = made_by(folder, read_run)
    if record is None:
        return {**entry, "state": ""}
    saved = (record.get("outputs") or {}).get("model") or {}
    said, is_now = str(saved.get("sha256") or ""), str(entry["sha256"])
    entry["state"] = "" if not said or not is_now else ("as saved" if said == is_now else "changed")
    if saved.get("checkpoint"):
        entry["checkpoint"] = saved["checkpoint"]
    name = str((record.get("run") or {}).get("name") or folder.name)
    return {**entry, "kind": "run", "name": name, "record": brief(record)}


def weights(folder: Path, cache: HashCache, *, read: bool = True, progress: Progress | None = None) -> list[Hashed]:
    """The weight files of a model directory with their hashes, sorted; those that cannot be read have none."""
    names = sorted(path.name for path in folder.iterdir() if is_weights(path.name) and path.is_file())
    try:
        return hash_files(folder, names, cache, read=read, progress=progress)
    except OSError:
        return hash_files(folder, [name for name in names if (folder / name).is_file()], cache, read=False)


def made_by(folder: Path, read_run: ReadRun) -> Record | None:
    """The record of the run that made a model: the one that travels with it, or that of the run directory it lies in."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))
        if isinstance(record, dict):
            return record
    return read_run(folder.resolve().parent) if folder.resolve().name == "model" else None


def hub_snapshot(name: str, kind: str = "models") -> tuple[Path | None, str]:
    """Where the Hugging Face cache of this user holds a hub id, and the commit that its main branch stood at.

    Args:
        kind: ``models`` or ``datasets``.

    Returns:
        (None, "") where it is not in the cache.
    """
    if not _is_hub_id(name):
        return None, ""
    cache = os.environ.get("HF_HUB_CACHE") or str(Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    folder = Path(cache).expanduser() / f"{kind}--{name.replace('/', '--')}"
    with contextlib.suppress(OSError):
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
        snapshot = folder / "snapshots" / revision
        if revision and snapshot.is_dir():
            return snapshot, revision
    return None, ""


def _is_hub_id(name: str) -> bool:
    parts = name.split("/")
    return 1 <= len(parts) <= 2 and all(part and part not in (".", "..") and not part.startswith("~") for part in parts)


def facts_of(files: list[Hashed]) -> Record:
    """What a record says of a model's weights."""
    return {
        "sha256": together(files), "size_bytes": sum(file.size_bytes for file in files), "file_count": len(files),
        "files": [file.to_json() for file in files[:MAX_FILES]],
    }
