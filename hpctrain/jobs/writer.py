"""Appends events to this process's own event file (adapter over the file system, standard library only).

One writer per file: ``events/<source>-<host>.jsonl``. Cheap enough for a training loop: one ``write`` per event.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock, SystemClock
from hpctrain.errors import StorageError
from hpctrain.files import PRIVATE_DIR, append_jsonl, storage_errors
from hpctrain.jobs.event import Event
from hpctrain.jobs.layout import RunDir


class EventWriter:
    """Writes the events of one source on one host.

    Args:
        run_dir: the run they belong to; it must exist, its ``events/`` need not.
        source: who speaks: ``submit``, ``coordinator``, ``agent``, ``trainer``, ``watchdog``, ``cli``.
        host: the node as Slurm names it (several nodes may share one host name), or the login host.
        job: Slurm's job id, None before there is one; it may be set later (:attr:`job`).
    """

    def __init__(
        self, run_dir: RunDir | Path | str, source: str, host: str, clock: Clock | None = None, job: int | None = None
    ) -> None:
        run = run_dir if isinstance(run_dir, RunDir) else RunDir(Path(run_dir))
        self.source = source
        self.host = host
        self.job = job
        self.path = run.events / f"{_file_word(source)}-{_file_word(host)}.jsonl"
        self._clock: Clock = clock or SystemClock()

    def write(
        self, kind: str, reason: str = "", *, node: str = "", step: int | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> Event:
        """Append one event, stamped now, and return it.

        Args:
            kind: one of :data:`hpctrain.jobs.event.KINDS`.
            reason: one sentence for people.
            node: where it happened, "" where that does not matter.
            step: completed optimizer steps at that moment.
            evidence: plain JSON facts with units in their names.

        Raises:
            StorageError: the event could not be written (disk full, run directory gone).
        """
        event = Event(self._clock.time(), self.source, kind, self.job, node, step, reason, evidence or {})
        with storage_errors(self.path):
            self.path.parent.mkdir(mode=PRIVATE_DIR, exist_ok=True)
        append_jsonl(self.path, event.to_json())
        return event

    def note(
        self, kind: str, reason: str = "", *, node: str = "", step: int | None = None,
        evidence: Mapping[str, Any] | None = None,
    ) -> bool:
        """Like :meth:`write`, for places where a full disk must not stop the work: says so and returns False."""
        try:
            self.write(kind, reason, node=node, step=step, evidence=evidence)
        except StorageError as error:
            with contextlib.suppress(OSError):  # standard error may lie on the same full disk
                os.write(2, f"hpctrain: event {kind} was not recorded: {error}\n".encode())
            return False
        return True


def _file_word(text: str) -> str:
    """A host name as part of a file name: nothing that could leave the directory."""
    return re.sub(r"[^A-Za-z0-9_.+-]", "_", text).lstrip(".") or "unknown"
