"""What a node remembers between health checks: one JSON file, one event log, both only root's (adapter).

A file that cannot be read is as good as none: the node then has no memory, which costs rates and flap counts, never a job.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hpctrain.errors import StorageError
from hpctrain.files import append_jsonl, make_private_dir, storage_errors
from hpctrain.health.kernel_log import LogMemory
from hpctrain.health.reading import KernelEvent, Sample

_LOCK_WAIT_S = 0.2
SAMPLE_EVERY_S = 300.0
KEEP_S = 86_400.0
THIN_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class NodeState:
    """The memory of a node.

    Attributes:
        samples: counters of this boot, oldest first.
        blocked: (pid, start) of the processes that were blocked at the last look.
        stuck: probe -> pid, start and since when of a child that could not be ended.
        verdict: the last one, as :func:`hpctrain.health.run.verdict_record` makes it.
        failures: how often a health check itself failed, and the last time why.
    """

    boot_id: str = ""
    log: LogMemory = field(default_factory=LogMemory)
    samples: tuple[Sample, ...] = ()
    blocked: tuple[tuple[int, float], ...] = ()
    stuck: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, Any] = field(default_factory=dict)


class NodeFiles:
    """The files of one node in the state directory."""

    def __init__(self, directory: Path, node: str, log_bytes: int = 4 * 2**20) -> None:
        self._directory, self._log_bytes = directory, log_bytes
        self.state = directory / f"{node}.state.json"
        self.events = directory / f"{node}.events.jsonl"
        self._lock = directory / f"{node}.lock"

    def load(self) -> NodeState:
        """The memory; an empty one if there is none that can be understood."""
        try:
            return _from_json(json.loads(self.state.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return NodeState()

    def save(self, state: NodeState) -> None:
        """Replace the memory. Raises StorageError."""
        make_private_dir(self._directory)
        document = {"version": 1, "time": time.time(), **asdict(state)}
        draft = self.state.with_name(f".{self.state.name}.{os.getpid()}")
        with storage_errors(draft):
            # Not files.write_atomic: its temporary names cost a prolog the import of random and hashlib.
            handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(handle, "w") as file:
                    file.write(json.dumps(document, separators=(",", ":")))
                draft.replace(self.state)
            except OSError:
                draft.unlink(missing_ok=True)
                raise

    def append(self, event: Mapping[str, Any]) -> None:
        """Add one event, and turn the log over when it is long. Raises StorageError."""
        make_private_dir(self._directory)
        with contextlib.suppress(OSError):
            if self.events.stat().st_size > self._log_bytes:
                self.events.replace(self.events.with_suffix(".jsonl.1"))
        append_jsonl(self.events, event)

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Hold the node's lock, if it can be had soon: prologs of several jobs may run at once.

        Yields False without it: what is learned then is not kept, and the next look learns it again.
        """
        handle = -1
        try:
            make_private_dir(self._directory)
            handle = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            yield _lock(handle)
        except (OSError, StorageError):
            if handle >= 0:
                raise
            yield False
        finally:
            if handle >= 0:
                os.close(handle)


def _lock(handle: int) -> bool:
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(0.01)
        else:
            return True


def add_sample(samples: tuple[Sample, ...], new: Sample) -> tuple[Sample, ...]:
    """Keep what rates need: every five minutes of the last hour, one an hour of the last day."""
    if samples and new.time - samples[-1].time < SAMPLE_EVERY_S:
        return samples
    kept: list[Sample] = []
    for sample in samples:
        age_s = new.time - sample.time
        if not 0 < age_s <= KEEP_S:
            continue
        if age_s > THIN_AFTER_S and kept and sample.time - kept[-1].time < THIN_AFTER_S:
            continue
        kept.append(sample)
    return (*kept, new)


def _from_json(document: Any) -> NodeState:
    log = document["log"]
    known = {item.name for item in fields(KernelEvent)}
    events = tuple(KernelEvent(**{key: value for key, value in event.items() if key in known}) for event in log["events"])
    return NodeState(
        boot_id=str(document["boot_id"]),
        log=LogMemory(
            str(log["boot_id"]),
            int(log["cursor"]),
            events,
            {str(k): float(v) for k, v in log["cleared"].items()},
            str(log.get("source", "")),
        ),
        samples=tuple(Sample(float(one["time"]), dict(one["counters"])) for one in document["samples"]),
        blocked=tuple((int(pid), float(start)) for pid, start in document["blocked"]),
        stuck=dict(document["stuck"]),
        verdict=dict(document["verdict"]),
        failures=dict(document["failures"]),
    )
