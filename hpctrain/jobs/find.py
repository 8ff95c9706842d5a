"""The runs on disk, and which of them a person means (adapter over the file system)."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpctrain.errors import NotFoundError
from hpctrain.ids import JobId
from hpctrain.jobs.layout import RunDir

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Run:
    """One run directory with a ``run.json``.

    Attributes:
        name: the run's name, which is also the directory's.
        job_id: Slurm's id of its job.
        submitted_time: seconds since the epoch.
        recipe: the file or shipped recipe it was made from.
        cluster: ``ClusterName`` of the Slurm it was given to, "" if not recorded.
        slurm_conf: ``SLURM_CONF`` at that time, "" for the site's default.
        record: the whole ``run.json``.
    """

    name: str
    dir: RunDir
    job_id: JobId
    submitted_time: float
    recipe: str = ""
    user: str = ""
    cluster: str = ""
    slurm_conf: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


def read_run(path: Path) -> Run | None:
    """The run in a directory, None if it is not one (no ``run.json``, or not a readable one)."""
    directory = RunDir(path)
    try:
        record = json.loads(directory.record.read_text(encoding="utf-8"))
        return Run(
            name=path.name, dir=directory, job_id=JobId(int(record["job_id"])),
            submitted_time=float(record.get("submitted_time") or directory.record.stat().st_mtime),
            recipe=_word(record.get("recipe")), user=_word(record.get("user")), cluster=_word(record.get("cluster")),
            slurm_conf=_word(record.get("slurm_conf")), record=record,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def list_runs(runs_dir: str | Path) -> list[Run]:
    """All runs under a directory, newest first; empty if there is no such directory."""
    try:
        with os.scandir(runs_dir) as entries:
            paths = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []
    runs = [run for path in paths if (run := read_run(path)) is not None]
    return sorted(runs, key=lambda run: (run.submitted_time, run.job_id, run.name), reverse=True)


def find_run(key: str, runs_dir: str | Path) -> Run:
    """The run that a person means by a job id, a run name or the unique start of one, a directory, or ``latest``.

    Raises:
        NotFoundError: nothing fits (with the nearest names), or the start of a name fits several runs.
    """
    if "/" in key:
        run = read_run(Path(key).expanduser().absolute())
        if run is None:
            raise NotFoundError(f"{key} is not a run directory: it has no readable run.json")
        return run
    plain_name = bool(key.strip(".")) and key != LATEST and not key.isdecimal()
    direct = read_run(Path(runs_dir) / key) if plain_name else None
    return direct or choose(key, list_runs(runs_dir), where=str(runs_dir))


def choose(key: str, runs: Sequence[Run], *, where: str = "") -> Run:
    """:func:`find_run` among runs already read, newest first."""
    if key == LATEST:
        if not runs:
            raise NotFoundError(f"there are no runs in {where}", hint="start one: hpctrain submit quickstart --follow")
        return runs[0]
    same_id = [run for run in runs if key.isdecimal() and run.job_id == int(key)]
    exact = [run for run in runs if run.name == key]
    starting = [run for run in runs if key and run.name.startswith(key)]
    if same_id or exact:
        # Job ids start again at 1 on a new cluster; the newest run is the one people mean.
        return (same_id or exact)[0]
    if len(starting) == 1:
        return starting[0]
    if starting:
        raise NotFoundError(
            f"{key!r} is the start of {len(starting)} runs", hint="name one of them: " + _some(starting),
        )
    raise NotFoundError(f"no run or job {key!r} in {where}", hint=_near(key, runs))


def _near(key: str, runs: Sequence[Run]) -> str:
    if not runs:
        return "there are no runs yet; start one: hpctrain submit quickstart --follow"
    names = {run.name: run for run in runs} | {str(run.job_id): run for run in runs}
    close = difflib.get_close_matches(key, names, n=3, cutoff=0.5)
    found = list({names[name].name: names[name] for name in close}.values())
    return ("did you mean " if found else "the newest are ") + _some(found or runs)


def _some(runs: Sequence[Run], limit: int = 4) -> str:
    shown = ", ".join(f"{run.name} (job {run.job_id})" for run in runs[:limit])
    return shown + (f" and {len(runs) - limit} more" if len(runs) > limit else "")


def _word(value: object) -> str:
    return value if isinstance(value, str) else ""
