"""How far a run has come, from the files it leaves (adapter over the file system, standard library only)."""

from __future__ import annotations

import contextlib
import json
import re

from hpctrain.jobs.layout import RunDir
from hpctrain.jobs.metrics import read_tail

_CHECKPOINT = re.compile(r"^step-(\d+)\.i\d+$")


def best_step(run_dir: RunDir) -> int | None:
    """Most steps that the run has completed, by its metrics, its heartbeat or its checkpoints; None if none says."""
    found = [point.step for point in read_tail(run_dir.metrics)]
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found.append(int(json.loads(run_dir.progress.read_text(encoding="utf-8"))["step"]))
    with contextlib.suppress(OSError):
        commits = [path for path in run_dir.checkpoints.iterdir() if (path / "commit.json").exists()]
        found += [int(match.group(1)) for path in commits if (match := _CHECKPOINT.match(path.name))]
    return max(found, default=None)


def newest_checkpoint(run_dir: RunDir) -> str:
    """Path of the checkpoint of the shared tier that was committed last, "" where there is none."""
    with contextlib.suppress(OSError):
        committed = [path for path in run_dir.checkpoints.iterdir() if (path / "commit.json").exists()]
        if committed:
            return str(max(committed, key=lambda path: (path / "commit.json").stat().st_mtime))
    return ""
