"""Take one reading of this node: start the probes, put their answers together (service).

The probes run side by side, each in a child of its own; only a mount that does not answer gets its successors asked by
another child.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpctrain.health.assemble import assemble, make
from hpctrain.health.config import Config
from hpctrain.health.kernel_log import LogMemory, remember
from hpctrain.health.probe_child import Answer, Probe, Report, run_probes, start_probes
from hpctrain.health.probe_mounts import STEP, mount_table, read_mounts, silent
from hpctrain.health.reading import Job, KernelEvent, ProbeState, Reading, Sample
from hpctrain.health.sysfs import real, text

PROBES = ("nvml", "host", "devices", "processes", "kernel_log", "mounts")
MOUNT_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What to look at, and for whom.

    Attributes:
        probes: which of :data:`PROBES`.
        deadline_s: seconds for all of it.
        thorough: also what may take long; not in a prolog.
        samples, blocked_before: from earlier readings, see :class:`Reading`.
        stuck: probes whose child of an earlier run is still blocked -> since when; they are not started again.
    """

    node: str
    context: str
    probes: Sequence[str]
    deadline_s: float
    job: Job | None = None
    thorough: bool = True
    log: LogMemory = field(default_factory=LogMemory)
    samples: tuple[Sample, ...] = ()
    blocked_before: tuple[tuple[int, float], ...] = ()
    stuck: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taken:
    """A reading and what it leaves for the next one.

    Attributes:
        abandoned: probe -> pid of a child that could not be ended.
        records: what the probes said, for recordings.
    """

    reading: Reading
    log: LogMemory
    abandoned: Mapping[str, int]
    records: tuple[Mapping[str, Any], ...] = ()


class Taking:
    """A reading that is under way; made by :func:`begin`."""

    def __init__(self, config: Config, request: Request) -> None:
        self._config, self._request = config, request
        self._until = time.monotonic() + request.deadline_s
        proc = config.roots.proc
        self._boot_id = text(f"{proc}/sys/kernel/random/boot_id")
        self._uptime_s = real((text(f"{proc}/uptime").split() or [""])[0])
        self._mounts = mount_table(proc) if "mounts" in request.probes else []
        self._probing = start_probes(list(self._probes()))

    def _probes(self) -> Iterable[Probe]:
        readers = {
            "nvml": self._read_gpus,
            "host": self._read_host,
            "devices": self._read_devices,
            "processes": self._read_processes,
            "kernel_log": self._read_kernel_log,
        }
        for name, read in readers.items():
            if name in self._request.probes and name not in self._request.stuck:
                yield Probe(name, read, self._request.deadline_s)
        if self._mounts and "mounts" not in self._request.stuck:
            mounts = self._mounts
            yield Probe(
                "mounts", lambda report: read_mounts(report, mounts), min(MOUNT_DEADLINE_S, self._request.deadline_s)
            )

    def _read_gpus(self, report: Report) -> None:
        report.step("importing pynvml")
        try:
            from hpctrain.health.probe_nvml import read_gpus  # here, so that only this child pays for it
        except ModuleNotFoundError as error:
            report.emit(nvml_error=f"module_{error.name}_not_installed")
            return

        minors = self._request.job.gpus if self._request.job else None
        roots = self._config.roots
        read_gpus(report, minors=minors, thorough=self._request.thorough, library=roots.nvml, proc=roots.processes)

    def _read_host(self, report: Report) -> None:
        roots = self._config.roots
        from hpctrain.health.probe_host import read_host

        server = self._config.time_server if self._request.thorough else ""
        read_host(report, proc=roots.proc, sys=roots.sys, clock=roots.clock, time_server=server)

    def _read_devices(self, report: Report) -> None:
        from hpctrain.health.probe_devices import read_devices

        read_devices(report, sys=self._config.roots.sys, thorough=self._request.thorough)

    def _read_processes(self, report: Report) -> None:
        from hpctrain.health.probe_processes import read_processes

        roots = self._config.roots
        read_processes(report, proc=roots.processes, sys=roots.sys, services=self._config.expected.services)

    def _read_kernel_log(self, report: Report) -> None:
        from hpctrain.health.probe_kernel_log import read_kernel_log

        read_kernel_log(
            report,
            source=self._config.roots.kernel_log,
            known=self._request.log,
            boot_id=self._boot_id,
            uptime_s=self._uptime_s or 0.0,
            age_s=self._config.kernel_log_age_s,
            journalctl=self._config.roots.journalctl,
        )

    def finish(self) -> Taken:
        """Wait for the probes, each until its deadline, and make the reading."""
        answers = self._probing.collect()
        abandoned = {name: answer.abandoned for name, answer in answers.items() if answer.abandoned}
        self._ask_the_other_mounts(answers, abandoned)
        for name, since in self._request.stuck.items():
            answers[name] = Answer(state=ProbeState("timeout", f"a call that has been blocked since {since}"))
        now = time.time()
        log = self._remember(answers, now)
        request = self._request
        reading = Reading(
            time=now,
            node=request.node,
            context=request.context,
            boot_id=self._boot_id,
            uptime_s=self._uptime_s,
            job=request.job,
            expected=self._config.expected,
            kernel_events=log.events,
            samples=request.samples,
            blocked_before=request.blocked_before,
            probes={name: answer.state for name, answer in answers.items()},
        )
        records = tuple(record for answer in answers.values() for record in answer.records)
        return Taken(assemble(reading, records), log, abandoned, records)

    def _ask_the_other_mounts(self, answers: dict[str, Answer], abandoned: dict[str, int]) -> None:
        """Go on behind a mount that hangs, as long as there is time; what is left then stays unknown."""
        while "mounts" in answers and answers["mounts"].state.outcome == "timeout":
            answer = answers["mounts"]
            hung = next((mount for mount in self._mounts if STEP + mount.path == answer.state.step), None)
            if hung is None:
                return
            answer.records.append({"file_system": silent(hung, answer.state.took_s)})
            rest = self._mounts[self._mounts.index(hung) + 1 :]
            answer.state = ProbeState("ok", took_s=answer.state.took_s)  # the mount is at fault, not the probe
            left_s = min(MOUNT_DEADLINE_S, self._until - time.monotonic())
            if not rest or left_s <= 0.05:
                return
            more = run_probes([Probe("mounts", partial(read_mounts, mounts=rest), left_s)])["mounts"]
            if more.abandoned:
                abandoned.setdefault("mounts", more.abandoned)
            answers["mounts"] = Answer([*answer.records, *more.records], more.state)

    def _remember(self, answers: Mapping[str, Answer], now: float) -> LogMemory:
        records = answers["kernel_log"].records if "kernel_log" in answers else []
        events = [event for record in records if (event := make(KernelEvent, record.get("event")))]
        cursor = max((record["cursor"] for record in records if isinstance(record.get("cursor"), int)), default=-1)
        source = next((str(record["log"]) for record in records if record.get("log")), "")
        age_s = self._config.kernel_log_age_s
        return remember(self._request.log, self._boot_id, cursor, events, now=now, age_s=age_s, source=source)


def begin(config: Config, request: Request) -> Taking:
    """Start the probes and return at once; what the caller does meanwhile costs nothing."""
    return Taking(config, request)
