"""What outlives a start of the batch script: the history of starts, and a run.json that was never written (adapter).

(Adapter over the file system, standard library only.)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpctrain.agent.decide import History
from hpctrain.files import make_private_dir, write_json_atomic
from hpctrain.ids import JobId
from hpctrain.jobs.layout import RunDir


def load_history(run_dir: RunDir) -> History:
    """The history; where its file is missing or damaged, the log directories tell which numbers were used."""
    data = _read(_path(run_dir)) or {}
    used = [int(path.name[1:]) for path in run_dir.logs.glob("i[0-9]*") if path.name[1:].isdigit()]
    try:
        best = data.get("best_step")
        return History(max([int(data.get("incarnation", -1)), *used]), None if best is None else int(best))
    except (TypeError, ValueError):
        return History(max(used, default=-1))


def save_history(run_dir: RunDir, history: History) -> None:
    """Write it durably. Raises StorageError."""
    make_private_dir(run_dir.control)
    write_json_atomic(_path(run_dir), history.to_json())


def draft_path(run_dir: RunDir) -> Path:
    """What submit knows before Slurm has given an id; run.json is this plus the id."""
    return run_dir.control / "run.draft.json"


def heal_record(run_dir: RunDir, job_id: JobId, time_s: float) -> bool:
    """Write the run.json that a submission which was killed right after sbatch did not write; True if that was needed.

    Raises:
        StorageError: it cannot be written.
    """
    if run_dir.record.exists():
        return False
    write_json_atomic(run_dir.record, complete_record(_read(draft_path(run_dir)) or {}, job_id, time_s))
    return True


def complete_record(draft: dict[str, Any], job_id: JobId, submitted_time: float) -> dict[str, Any]:
    """``run.json`` from its draft."""
    return {"version": 1, "job_id": job_id, "submitted_time": submitted_time, **draft}


def _path(run_dir: RunDir) -> Path:
    return run_dir.control / "incarnation.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
