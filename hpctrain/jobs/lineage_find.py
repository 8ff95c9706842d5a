"""The lineage of whatever a person names: a run, a model directory, a hub id (service)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError
from hpctrain.files import read_json_object
from hpctrain.hashing import CACHE_DIR, HashCache
from hpctrain.jobs.find import list_runs
from hpctrain.jobs.lineage import MODEL_FILE, Record, Wanted, ancestors, is_weights
from hpctrain.jobs.lineage_model import hub_snapshot, look_at
from hpctrain.jobs.lineage_read import read_model_record, read_record


@dataclass(frozen=True, slots=True)
class Lineage:
    """What was found.

    Attributes:
        model: where a model was named: what is known of its weights, as an input of a record has it.
        record: of the run that was named, or that made the model; None where nobody knows.
        used_by: later runs beside it that started from it, oldest first: ``run``, ``method``, ``role``.
    """

    model: Record | None
    record: Record | None
    used_by: list[Record] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As ``-o json`` prints it."""
        return {"model": self.model, "record": self.record, "used_by": self.used_by}


def find_lineage(what: str, runs_dir: str, find_run: Callable[[str], Path], *, verify: bool = False) -> Lineage:
    """Look up a run or a model.

    Args:
        runs_dir: where runs lie; their hashes are shared, and later users are looked for there.
        find_run: the directory of a run by its id or name.
        verify: read the weights, to compare them with what was recorded.

    Raises:
        NotFoundError: it is neither a run nor a model.
    """
    cache = HashCache(Path(runs_dir) / CACHE_DIR)
    folder = Path(what).expanduser()
    if _is_path(what) or (folder.is_dir() and _is_model(folder)):
        if not folder.is_dir():
            if _is_path(what) and not folder.is_absolute() and hub_snapshot(what)[0] is not None:
                return Lineage(look_at(Wanted("model", what), cache, read_record, read=verify), None)
            raise NotFoundError(f"there is no run or model at {what}", hint=_HINT)
        folder = folder.absolute()
        record = None if (folder / MODEL_FILE).is_file() else read_record(folder)
        if record is None:
            return _model(folder, cache, runs_dir, verify)
    else:
        record = read_record(find_run(what))
        if record is None:
            raise NotFoundError(f"nothing is left of {what} but its name", hint=_HINT)
    mark_gone(record)
    if verify:
        _verify(record, cache)
    return Lineage(None, record, used_by(record, runs_dir))


_HINT = "name a run ('hpctrain list' shows them), a run directory, a model directory, or a hub id that is in your cache"


def used_by(record: Mapping[str, Any], runs_dir: str) -> list[Record]:
    """Runs beside it that took its model in, by the record's id or the hash of its weights."""
    sha256 = str(((record.get("outputs") or {}).get("model") or {}).get("sha256") or "")
    found = []
    for run in reversed(list_runs(runs_dir)):
        later = read_json_object(run.dir.lineage)
        for entry in later.get("inputs") or []:
            mine = (entry.get("record") or {}).get("id") == record.get("id") if record.get("id") else False
            if mine or (sha256 and entry.get("sha256") == sha256):
                method = (later.get("recipe") or {}).get("method")
                found.append({"run": run.name, "method": method, "role": entry.get("role")})
                break
    return found


def mark_gone(record: Mapping[str, Any]) -> None:
    """Note at each run of a record whether its directory is there, as seen from here."""
    for _, below in ancestors(record):
        run = below.get("run")
        if isinstance(run, dict) and run.get("directory"):
            run["there"] = Path(str(run["directory"])).is_dir()


def _model(folder: Path, cache: HashCache, runs_dir: str, verify: bool) -> Lineage:
    if not _is_model(folder):
        raise NotFoundError(f"{folder} is neither a run directory nor a model", hint=_HINT)
    record = read_model_record(folder)
    model = look_at(Wanted("model", str(folder)), cache, read_record, read=verify)
    if record is None:
        return Lineage(model, None, [])
    mark_gone(record)
    mark_gone({"inputs": [model]})
    return Lineage(model, record, used_by(record, runs_dir))


def _verify(record: Record, cache: HashCache) -> None:
    """Compare a run's own model with what it recorded when it saved it."""
    model = (record.get("outputs") or {}).get("model")
    if isinstance(model, dict) and model.get("path"):
        seen = look_at(Wanted("model", str(model["path"])), cache, read_record)
        model["state"] = "" if not model.get("sha256") else "as saved" if seen["sha256"] == model["sha256"] else "changed"
        model.setdefault("sha256", seen["sha256"])


def _is_model(folder: Path) -> bool:
    if (folder / MODEL_FILE).is_file() or (folder / "config.json").is_file():
        return True
    return any(is_weights(path.name) for path in folder.iterdir())


def _is_path(what: str) -> bool:
    return "/" in what or what in (".", "..")
