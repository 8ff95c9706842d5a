"""End what a finished job has left running on this node (adapter over /proc and signals).

Matched by the job's cgroup or by SLURM_JOB_ID *and* SLURMD_NODENAME in the environment, and by the job's user: a process can
only get itself killed by lying about that. SLURM_CLUSTER_NAME counts, too: private clusters on one host have the same nodes
and the same job numbers.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from hpctrain.health.probe_processes import environment_of, job_of
from hpctrain.health.reading import Process
from hpctrain.health.sysfs import names, text

_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Left:
    """What became of a job's leftovers: how many were found, and those that survive SIGKILL."""

    found: int
    survivors: tuple[Process, ...]


def end_leftovers(
    job_id: str, uid: int, node: str, *, cluster: str = "", term_s: float = 1.0, kill_s: float = 1.0, proc: str = "/proc"
) -> Left:
    """SIGTERM, then SIGKILL, to every process of the job on this node; return what survives both.

    Args:
        cluster: name of the job's cluster; "" if that is not known.
    """
    pids = [pid for pid in _of_job(proc, job_id, uid, node) if _is_clusters(proc, pid, cluster)]
    found = len(pids)
    for number, wait_s in ((signal.SIGTERM, term_s), (signal.SIGKILL, kill_s)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        until = time.monotonic() + wait_s
        while pids and time.monotonic() < until:
            time.sleep(_POLL_S)
            pids = [pid for pid in pids if _is_alive(proc, pid)]
    return Left(found, tuple(_described(proc, pid) for pid in pids))


def _of_job(proc: str, job_id: str, uid: int, node: str) -> Iterator[int]:
    family = _ancestors(proc)
    for name in names(proc):
        if not name.isdecimal() or int(name) in family:
            continue
        pid = int(name)
        try:
            if os.stat(f"{proc}/{pid}").st_uid != uid:  # noqa: PTH116 - thousands of these
                continue
        except OSError:
            continue
        environment = environment_of(proc, pid)
        if "SLURM_SCRIPT_CONTEXT" in environment:
            continue  # a prolog or epilog, which have the job's variables too
        here = environment.get("SLURMD_NODENAME", node) == node
        if here and job_of(proc, pid) == job_id and _is_alive(proc, pid):
            yield pid


def _is_clusters(proc: str, pid: int, cluster: str) -> bool:
    return not cluster or environment_of(proc, pid).get("SLURM_CLUSTER_NAME", cluster) == cluster


def _ancestors(proc: str) -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        fields = text(f"{proc}/{pid}/stat").rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 else 0
    return found


def _is_alive(proc: str, pid: int) -> bool:
    state = text(f"{proc}/{pid}/stat").rpartition(")")[2].split()[:1]
    return bool(state) and state[0] not in ("Z", "X")


def _described(proc: str, pid: int) -> Process:
    line = text(f"{proc}/{pid}/stat")
    state = line.rpartition(")")[2].split()[:1] or ["?"]
    return Process(pid, line.partition("(")[2].rpartition(")")[0], state[0], waits_in=text(f"{proc}/{pid}/wchan")[:64])
