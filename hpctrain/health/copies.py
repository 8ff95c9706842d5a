"""Remove what a finished job has copied to this node's disk (adapter over the file system).

Training data that a recipe has copied lies in a directory whose name says user, job and node (hpctrain.train.staging). The
user's next job on this node removes it too; an epilog, which runs as root, need not wait for one.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path


def remove_copies(folders: Iterable[str], job_id: str, uid: int, node: str) -> list[Path]:
    """Remove the job's directory of copies from each of these; return what was there.

    A directory that belongs to somebody else is left alone, symbolic links are not followed, and what cannot be removed
    is no reason for an epilog to fail.
    """
    removed = []
    for folder in folders if shutil.rmtree.avoids_symlink_attacks else ():
        path = Path(folder) / f"hpctrain-{uid}-{job_id}-{node}-data"
        with contextlib.suppress(OSError):
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == uid:
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
    return removed
