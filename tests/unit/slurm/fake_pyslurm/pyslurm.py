"""Stands in for pyslurm in a helper process: one job, one node, and every way to misbehave.

``FAKE_PYSLURM`` is a directory: each call is written into ``calls`` there, and a file ``trouble`` holds lines
``WHERE HOW [TIMES]``. WHERE is ``import``, ``init`` or the name of a call; HOW is ``die`` (SIGKILL before the call has an
effect), ``die-after``, ``stop`` (SIGSTOP), ``exit``, ``raise`` (a Python error) or the number of a Slurm error.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

_PLACE = Path(os.environ["FAKE_PYSLURM"])
_TEXTS = {1800: "Unable to contact slurm controller (connect failure)", 2017: "Invalid job id specified",
          2024: "Job is pending execution", 5004: "Socket timed out on send/recv operation"}


class RPCError(Exception):
    """As pyslurm's."""

    def __init__(self, errno: int) -> None:
        super().__init__(_TEXTS[errno])
        self.errno = errno


def _lines(name: str) -> list[str]:
    path = _PLACE / name
    return path.read_text().splitlines() if path.exists() else []


def _note(call: str) -> None:
    with (_PLACE / "calls").open("a") as file:
        file.write(f"{call}\n")


def _trouble(where: str, stage: str) -> None:
    """Do what is asked for at this place, so many times over all processes."""
    for line in _lines("trouble"):
        place, how, times = (*line.split(), "1000")[:3]
        done = _lines("done").count(line)
        if place != where or done >= int(times) or (how == "die-after") != (stage == "after"):
            continue
        with (_PLACE / "done").open("a") as file:
            file.write(f"{line}\n")
        if how in ("die", "die-after"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "exit":
            os.write(2, b"error: resolve_ctls_from_dns_srv: no configuration\nfatal: Unable to process configuration file\n")
            os._exit(1)
        elif how == "raise":
            raise IndexError("list index out of range")
        else:
            raise RPCError(int(how))


_trouble("import", "before")
os.write(1, b"a library talks to standard output\n")
sys.setdlopenflags(sys.getdlopenflags() | 8)


def slurm_api_version() -> tuple[int, int, int]:
    """What it was built for."""
    return (24, 11, 5)


def slurm_init(_path: str | None = None) -> None:
    """Of libslurm."""
    _trouble("init", "before")


class _Undecodable:
    """A job whose name is not UTF-8 and whose user has no name."""

    id, user_id, state, state_reason = 8, 4242, "RUNNING", "None"

    @property
    def name(self) -> str:
        """As pyslurm decodes it."""
        return b"\xe9".decode()

    def __getattr__(self, _name: str) -> None:
        return None


class JobSubmitDescription:
    """Keeps what it is given."""

    def __init__(self, **values: object) -> None:
        self.values = values


class Job:
    """The one job, RUNNING until it is requeued."""

    def __init__(self, job_id: int) -> None:
        self.id = job_id
        requeued = any(line.startswith("requeue") for line in _lines("calls"))
        self.state, self.requeue_count = ("PENDING", 1) if requeued else ("RUNNING", 0)
        self.user_id, self.name, self.state_reason = os.getuid(), "train", "None"
        self.num_nodes, self.allocated_nodes, self.batch_host = 2, None if requeued else "n[1-2]", "n1"
        self.submit_time, self.start_time, self.time_limit, self.priority = 1000, 1001, 60, 5
        self.working_directory = "/home"

    def __getattr__(self, _name: str) -> None:
        return None

    @staticmethod
    def load(job_id: int) -> Job:
        """The job, or 2017."""
        _trouble("load", "before")
        if job_id not in (7, 8):
            raise RPCError(2017)
        return Job(7) if job_id == 7 else _Undecodable()  # type: ignore[return-value]

    def _do(self, what: str, detail: str = "") -> None:
        _trouble(what, "before")
        _note(f"{what} {self.id} {detail}".strip())
        _trouble(what, "after")

    def requeue(self, *, hold: bool) -> None:
        """Queue again."""
        self._do("requeue", str(hold))

    def release(self) -> None:
        """Release."""
        self._do("release")

    def cancel(self) -> None:
        """End."""
        self._do("cancel")

    def modify(self, changes: JobSubmitDescription) -> None:
        """Change."""
        self._do("modify", str(sorted(changes.values.items())))


class Jobs:
    """All jobs."""

    @staticmethod
    def load() -> dict[int, Job]:
        """By id."""
        _trouble("jobs", "before")
        _note("jobs")
        return {7: Job(7), 8: _Undecodable()}  # type: ignore[dict-item]


slurmctld = SimpleNamespace(Config=SimpleNamespace(load=lambda: SimpleNamespace(cluster_name="fake")))
