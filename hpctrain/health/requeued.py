"""Has a job's epilog lift the two minutes for which Slurm holds a requeued job back (adapter over a note in /tmp).

A job that queues itself again cannot lift that delay: Slurm stamps it when the old start is cleaned up, and by then every
process of the job is gone, by Slurm's cgroup or by our epilog. So the job leaves a note where its node's epilog looks, and
the epilog starts a process of its own that asks Slurm. The note is a name and an owner; what is in it is never read. A
user can so bring nothing about that 'scontrol update StartTime=now' on a job of the user's own would not.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from hpctrain import process

FOLDER = Path("/tmp")  # noqa: S108 - the one place that a job and root's epilog on its node share; see take()


def path_of(uid: int, environment: Mapping[str, str], folder: Path = FOLDER) -> Path | None:
    """Name of the note of this start of a job on this node, from Slurm's variables; None where they say too little.

    Nodes and clusters that share a host, as private ones do, have the same job numbers.
    """
    names = ("SLURM_JOB_ID", "SLURMD_NODENAME", "SLURM_CLUSTER_NAME")
    found = [environment.get(name, "") for name in names]
    if not all(found) or any("/" in part for part in found):
        return None
    return folder / "-".join(["hpctrain-requeued", str(uid), *found])


def leave(environment: Mapping[str, str], folder: Path = FOLDER) -> None:
    """Leave the note; where it cannot be left, the job starts after the delay, as any requeued job does."""
    path = path_of(os.getuid(), environment, folder)
    if path is not None:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))


def take(uid: int, environment: Mapping[str, str], folder: Path = FOLDER) -> bool:
    """Remove the job's note; True if there was one, and the job's user had written it."""
    path = path_of(uid, environment, folder)
    if path is None:
        return False
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != uid:
            return False
        path.unlink()
    except OSError:
        return False
    return True


def lift(job_id: str, *, scontrol: str, slurm_conf: str) -> None:
    """Start what waits for the job to be queued again and makes it eligible at once, and return.

    It belongs to no job and to no session of slurmd's, which would end it with the epilog.
    """
    environment = {"PATH": f"{Path(scontrol).parent}:/usr/bin:/bin"}
    conf = slurm_conf or os.environ.get("SLURM_CONF", "")
    argv = [sys.executable, "-I", "-m", "hpctrain.agent", "lift-delay", "--run-dir", "/", "--job", job_id]
    process.start(argv, env=environment | ({"SLURM_CONF": conf} if conf else {}), cwd="/", stdout=process.DEVNULL,
                  stderr=process.DEVNULL)
