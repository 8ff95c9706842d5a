"""The small status files that jobs publish for a watchdog of the whole cluster (adapter over the file system).

The site makes one directory on a file system that all nodes share, like ``/tmp``: mode 1733, so that every user may add
files and only the directory's owner may list them. A job's coordinator writes ``job-<id>.json`` into it: the object of
``control/coordinator.json`` and nothing else. The watchdog believes a file only if the job's own user owns it, if it is a
plain file, and if it is small. It takes numbers and one host name from it: nothing in such a file is run, used as a
pattern, or followed as a path.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import stat
from collections import Counter
from pathlib import Path

from hpctrain.clock import Clock
from hpctrain.slurm.model import Job, Node
from hpctrain.watchdog.budget import BudgetLimits
from hpctrain.watchdog.journal import Journal
from hpctrain.watchdog.model import COMMENT_PREFIX, Beat, Command, Looked, Managed

LARGEST_BYTES = 4096
KEEP_S, SWEEP_S = 86_400.0, 3600.0
"""A status that has not changed for a day belongs to a job that is over."""
_OURS = re.compile(r"^(job-\d+\.json|\.job-\d+\.\d+\.new)$")
_HOST = re.compile(r"^[A-Za-z0-9._-]{1,255}$")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")


class SpoolFiles:
    """The jobs of everybody, as the cluster's watchdog sees them.

    Args:
        directory: the site's spool; None where there is none, and then only Slurm's own word counts.
        limits: the budget of every job.
        journal: which keeps the failures, since nothing is written into users' directories.
    """

    def __init__(self, directory: Path | None, limits: BudgetLimits, journal: Journal, clock: Clock) -> None:
        self._directory, self._limits, self._journal, self._clock = directory, limits, journal, clock
        self._uids: dict[str, int | None] = {}
        self._next_sweep = 0.0
        self._beats: dict[int, tuple[tuple[int, int], Beat | None]] = {}

    def refresh(self) -> None:
        """Called before each poll: from time to time, files of jobs that are long over are removed."""
        if self._directory is None or self._clock.monotonic() < self._next_sweep:
            return
        self._next_sweep = self._clock.monotonic() + SWEEP_S
        with contextlib.suppress(OSError), os.scandir(self._directory) as entries:
            for entry in entries:
                if _OURS.match(entry.name):
                    with contextlib.suppress(OSError):
                        if entry.stat(follow_symlinks=False).st_mtime < self._clock.time() - KEEP_S:
                            Path(entry.path).unlink()

    def managed(self, job: Job) -> Managed | None:
        """The run of a job, as its comment says; None for jobs that are not hpctrain's."""
        name = job.comment.removeprefix(COMMENT_PREFIX)
        if not job.comment.startswith(COMMENT_PREFIX) or not _NAME.match(name):
            return None
        return Managed(name, "", limits=self._limits, nodes_needed=max(1, job.num_nodes))

    def beat(self, job: Job, managed: Managed) -> Beat | None:  # noqa: ARG002 - the other reader needs the run
        """What the job's coordinator published; None for no file, or one that is not to be believed."""
        if self._directory is None:
            return None
        path, job_id = self._directory / f"job-{job.job_id}.json", int(job.job_id)
        try:
            status = path.stat(follow_symlinks=False)
        except OSError:
            self._beats.pop(job_id, None)
            return None
        stamp = (status.st_mtime_ns, status.st_ino)
        known = self._beats.get(job_id)
        if known is None or known[0] != stamp:
            known = self._beats[job_id] = (stamp, self._read(path, job.user))
        return known[1]

    def look(self, command: Command, nodes: list[Node]) -> Looked:
        """What is known of a job beside Slurm: the failures that we have counted, of this run and of the nodes."""
        now, past = self._clock.time(), self._journal.attempts(command.run_name)
        lately = self._journal.attempts_since(now - self._limits.exclude_window_s)
        # The present failure, where a decision about it proved needless before, is no earlier one.
        mine = (command.job_id, command.restarts)
        blamed = Counter(node for attempt in lately if attempt.end != mine for node in dict.fromkeys(attempt.nodes))
        return Looked(now, command.job_id, command.restarts, nodes, past, blamed=blamed)

    def attempt(self, command: Command) -> None:
        """The journal has it."""

    def event(self, command: Command) -> None:
        """The journal has it."""

    def alive_after(self, command: Command, time_s: float) -> bool:
        """Whether the coordinator has published a sign of life well after a time."""
        known = self._beats.get(command.job_id)  # of the last poll, which was just now
        beat = known[1] if known else None
        return beat is not None and not beat.over and beat.time > time_s + 30.0

    def _read(self, path: Path, user: str) -> Beat | None:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_BYTES or status.st_uid != self._uid(user):
                return None
            data = json.loads(os.read(handle, LARGEST_BYTES + 1))
            beat = Beat.from_json(data) if isinstance(data, dict) else None
        except (OSError, ValueError):
            return None
        finally:
            os.close(handle)
        return beat if beat is not None and _HOST.match(beat.host) else None

    def _uid(self, user: str) -> int | None:
        if user not in self._uids:
            try:
                self._uids[user] = pwd.getpwnam(user).pw_uid
            except KeyError:
                self._uids[user] = None
        return self._uids[user]
