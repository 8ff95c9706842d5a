"""Looks at this node while the job runs on it: the kernel log, and the verdict of its health checks (adapter over files).

A look costs a few system calls and never waits: it reads what has been added since the last one. What may not be read is
passed over; most sites keep the verdicts, and many the kernel log, from ordinary users. There Slurm's own state of the
node, which the coordinator asks for, says later what is seen here in seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hpctrain.clock import Clock
from hpctrain.health.config import Config
from hpctrain.health.kernel_log import classify, parse_record
from hpctrain.health.node_state import NodeFiles
from hpctrain.health.reading import KernelEvent
from hpctrain.health.supervise import load_config
from hpctrain.health.xid import decide

EVERY_S = 5.0
MOST_BYTES = 2**20
MOST_RECORDS = 2000
"""Of the kernel log, in one look; what is left is read in the next."""
MOST_EVENTS, MOST_REPORTS = 256, 64
TROUBLE = ("mce", "lockup", "panic", "read_only", "oom", "hung_task", "io_error", "nvme", "pcie", "network")
"""Kinds of kernel events beside Xids that are worth a line in the job's own log."""
_MINOR = re.compile(r"^Device Minor:\s*(\d+)", re.MULTILINE)


class NodeWatch:
    """Of one node, for one job.

    Args:
        env: the agent's; names the site's health configuration and the job's GPUs.
        uses_gpus: the job was given GPUs; without, their faults are told and cost nothing.
    """

    def __init__(self, node: str, env: Mapping[str, str], clock: Clock, *, uses_gpus: bool) -> None:
        config = health_config(env)
        self._node, self._clock, self._uses_gpus = node, clock, uses_gpus
        self._own = _own_gpus(env)
        self._minors = _minors(Path(_of(node, config.roots.proc)) / "driver/nvidia/gpus")
        self._log = _Log(_of(node, config.roots.kernel_log))
        self._verdict = NodeFiles(Path(_of(node, config.state_dir)), node)
        self._verdict_mark: tuple[int, int] | None = None
        self._started, self._next = clock.time(), 0.0
        self._events: list[KernelEvent] = []
        self._verdicts: dict[str, dict[str, Any]] = {}

    def look(self) -> list[dict[str, Any]] | None:
        """All reports so far, as :mod:`hpctrain.detect.node_health` reads them; None while it is not time for a look.

        All, and not only the new ones: a coordinator that took over must hear them too.
        """
        if self._clock.monotonic() < self._next:
            return None
        self._next = self._clock.monotonic() + EVERY_S
        self._events = [*self._events, *self._log.read(self._clock.time())][-MOST_EVENTS:]
        self._read_verdict()
        return [*self._xids(), *self._other(), *self._verdicts.values()][:MOST_REPORTS]

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def _xids(self) -> Iterator[dict[str, Any]]:
        for decision in decide([event for event in self._events if event.kind in ("xid", "sxid")]):
            minor = self._minors.get(decision.entity)
            if minor is not None and self._own is not None and minor not in self._own:
                continue  # a GPU of another job
            yield {
                "kind": "xid", "time": decision.newest, "entity": decision.entity, "numbers": list(decision.numbers),
                "action": decision.action.name.lower(), "blame": decision.blame.value, "rule": decision.rule,
                "unlisted": decision.rule == "unlisted", "foreign": not self._uses_gpus,
                "reason": f"GPU at {decision.entity}: {decision.reason}",
            }

    def _other(self) -> Iterator[dict[str, Any]]:
        seen = set()
        for event in self._events:
            name = f"{event.kind} {event.entity}".strip()
            if event.kind in TROUBLE and event.detail.get("corrected") != "1" and name not in seen:
                seen.add(name)
                yield {"kind": "kernel", "time": event.time, "entity": name, "reason": event.text}

    def _read_verdict(self) -> None:
        with contextlib.suppress(OSError):
            now = self._verdict.state.stat()
            if (now.st_mtime_ns, now.st_ino) == self._verdict_mark:
                return
            self._verdict_mark = now.st_mtime_ns, now.st_ino
            found = self._verdict.load().verdict
            # What was known before the job began is the prolog's business.
            if found.get("level") == "drain" and float(found.get("time") or 0.0) >= self._started:
                reason = str(found.get("reason") or "no reason given")
                report = {"kind": "verdict", "time": float(found["time"]), "level": "drain", "reason": reason}
                self._verdicts.setdefault(reason, report)


class _Log:
    """What is added to ``/dev/kmsg``, or to a file of the same form, from now on."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._handle: int | None = None
        self._is_file, self._offset, self._rest = False, 0, b""
        self._open(at_end=True)

    def read(self, now: float) -> list[KernelEvent]:
        """The events since the last call."""
        if self._handle is None:
            self._open(at_end=False)
        if self._handle is None:
            return []
        with contextlib.suppress(OSError):
            if self._is_file:
                lines = iter(self._file_lines(self._handle))
                when = min(now, os.fstat(self._handle).st_mtime) if self._handle is not None else now
            else:
                lines, when = self._device_lines(self._handle), now
            return [event for line in lines if (event := self._event(line, when)) is not None]
        return []

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _open(self, *, at_end: bool) -> None:
        with contextlib.suppress(OSError):
            self._handle = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._is_file = stat.S_ISREG(os.fstat(self._handle).st_mode)
            if at_end or not self._is_file:
                self._offset = os.lseek(self._handle, 0, os.SEEK_END)

    def _event(self, line: str, when: float) -> KernelEvent | None:
        record = parse_record(line)
        if record is None:
            return None
        event = classify(record, time.time() - time.monotonic())
        # A file's clock may be another machine's; when it was written to is sure.
        return replace(event, time=when, first=when) if event is not None and self._is_file else event

    def _device_lines(self, handle: int) -> Iterator[str]:
        for _ in range(MOST_RECORDS):
            try:
                data = os.read(handle, 8192)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # the ring went round under us: the next read goes on with the oldest record that is left
            if not data:
                return
            yield data.decode(errors="replace").partition("\n")[0]

    def _file_lines(self, handle: int) -> list[str]:
        if os.fstat(handle).st_size < self._offset or os.fstat(handle).st_nlink == 0:
            os.close(handle)  # a new log
            self._handle, self._offset, self._rest = None, 0, b""
            self._open(at_end=False)
            if self._handle is None:
                return []
        data = os.pread(self._handle or handle, MOST_BYTES, self._offset)
        self._offset += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in whole]


def health_config(env: Mapping[str, str]) -> Config:
    """The site's configuration of health checks, which says where this node's kernel shows itself.

    A private cluster of :mod:`hpctrain.devcluster` has one of its own, beside its slurm.conf.
    """
    named = Path(env.get("SLURM_CONF") or "/nowhere/conf/slurm.conf").parent.parent / "health/health.json"
    if not env.get("HPCTRAIN_HEALTH_CONFIG") and named.is_file():
        return load_config({**env, "HPCTRAIN_HEALTH_CONFIG": str(named)})[0]
    return load_config(env)[0]


def _own_gpus(env: Mapping[str, str]) -> frozenset[int] | None:
    """Numbers of the job's GPUs on this node; None where Slurm does not say."""
    words = (env.get("SLURM_STEP_GPUS") or env.get("SLURM_JOB_GPUS") or "").split(",")
    return frozenset(int(word) for word in words) if all(word.isdigit() for word in words) else None


def _minors(directory: Path) -> dict[str, int]:
    """PCI address -> number of the device file, from the driver's own files."""
    found = {}
    with contextlib.suppress(OSError):
        for gpu in directory.iterdir():
            with contextlib.suppress(OSError):
                if match := _MINOR.search((gpu / "information").read_text()):
                    found[gpu.name.lower().rpartition(".")[0]] = int(match[1])
    return found


def _of(node: str, path: str) -> str:
    return path.replace("{node}", node)
