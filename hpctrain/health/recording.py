"""A reading as a JSON document, and back (pure).

A recording holds what the probes said, record by record, and what surrounded them, so that checks of today can be put to a
node of long ago. What it claims is believed no more than what a driver says: implausible values become errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from hpctrain.errors import UsageError
from hpctrain.health.assemble import assemble, make
from hpctrain.health.config import parse_config
from hpctrain.health.reading import Job, KernelEvent, ProbeState, Reading, Sample

FORMAT, VERSION = "hpctrain health recording", 1
_PLAIN = ("time", "node", "context", "boot_id", "uptime_s")
_KEPT_PATHS = frozenset({"/", "/boot", "/dev/shm", "/home", "/opt", "/run", "/scratch", "/tmp", "/usr", "/var"})  # noqa: S108
_NAMED = frozenset({"pid", "name"})


def to_document(reading: Reading, records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A recording of a reading.

    Args:
        records: what the probes said, which the reading was assembled from.
    """
    expected = {key: value for key, value in asdict(reading.expected).items() if value not in (None, "", (), {})}
    return {
        "format": FORMAT,
        "version": VERSION,
        "anonymous": False,
        **{name: getattr(reading, name) for name in _PLAIN},
        "job": asdict(reading.job) if reading.job else None,
        "expected": expected,
        "probes": {name: state._asdict() for name, state in reading.probes.items()},
        "kernel_events": [asdict(event) for event in reading.kernel_events],
        "samples": [asdict(sample) for sample in reading.samples],
        "blocked_before": [list(one) for one in reading.blocked_before],
        "records": [dict(record) for record in records if not set(record) & {"event", "cursor"}],
    }


def from_document(document: Any, where: str) -> Reading:
    """The reading in a recording; parts that are damaged are left out, as a probe's would be.

    Raises:
        UsageError: it is no recording, or one of a newer version.
    """
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UsageError("this is no recording of a reading", where=where, hint="'hpctrain health record' makes one")
    if document.get("version") != VERSION:
        raise UsageError(f"this recording has version {document.get('version')!r}; known is {VERSION}", where=where)
    time = document.get("time")
    if isinstance(time, bool) or not isinstance(time, int | float):
        raise UsageError("this recording does not say when it was made", where=where)
    uptime = document.get("uptime_s")
    reading = Reading(
        float(time),
        str(document.get("node", "")),
        str(document.get("context", "manual")),
        str(document.get("boot_id", "")),
        float(uptime) if isinstance(uptime, int | float) and not isinstance(uptime, bool) else None,
        make(Job, document.get("job")) if document.get("job") else None,
        parse_config({"expected": document.get("expected", {})})[0].expected,
        {name: state for name, content in _items(document.get("probes")) if (state := make(ProbeState, content))},
        kernel_events=tuple(filter(None, (make(KernelEvent, one) for one in _list(document.get("kernel_events"))))),
        samples=tuple(filter(None, (make(Sample, one) for one in _list(document.get("samples"))))),
        blocked_before=tuple(tuple(one) for one in _list(document.get("blocked_before")) if _is_pair(one)),
    )
    return assemble(reading, (one for one in _list(document.get("records")) if isinstance(one, dict)))


def _items(value: Any) -> Iterable[tuple[str, Any]]:
    return value.items() if isinstance(value, dict) else ()


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, int | float) for one in value)


def anonymised(document: Mapping[str, Any]) -> dict[str, Any]:
    """The recording without names: node, boot, serial numbers, UUIDs, mount points of the site, users, programs, servers.

    What is left tells the model of the hardware, its firmware and state. The kernel log's text is left out, as it may hold
    anything. Checks say the same of it as before, in other names.
    """
    node, job = str(document.get("node", "")), document.get("job") or {}
    names = dict(_secret_names(document))
    changed = {
        **document,
        "anonymous": True,
        "node": "node",
        "job": {**job, "id": "1", "uid": None} if job else None,
        "records": [_without_people(record, str(job.get("id", ""))) for record in document["records"]],
        "kernel_events": [_without_text(event) for event in document["kernel_events"]],
        "probes": {
            name: {**state, "step": _replaced(state["step"], {node: "node"})} for name, state in document["probes"].items()
        },
    }
    expected = dict(document["expected"])
    if "mounts" in expected:
        expected["mounts"] = {names.get(mount, mount): kind for mount, kind in expected["mounts"].items()}
    return {**{key: _replaced(value, names) for key, value in changed.items()}, "expected": expected}


def _secret_names(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is named after people or places, or is the only one of its kind -> what it is called in the recording."""
    records, expected = document["records"], document["expected"]
    if document.get("boot_id"):
        yield str(document["boot_id"]), "boot"
    mounts = [record["file_system"].get("mount", "") for record in records if "file_system" in record]
    own = [mount for mount in dict.fromkeys([*mounts, *expected.get("mounts", {})]) if mount not in _KEPT_PATHS]
    yield from ((mount, f"/mount{number}") for number, mount in enumerate(own))
    for record in records:
        gpu = record.get("gpu") or {}
        number = int(gpu.get("index", 0))
        if gpu.get("uuid"):
            yield str(gpu["uuid"]), f"GPU-{number:08d}-0000-0000-0000-000000000000"
        if gpu.get("values", {}).get("serial"):
            yield str(gpu["values"]["serial"]), f"serial{number}"


def _without_people(record: Mapping[str, Any], job_id: str) -> dict[str, Any]:
    """A record without the names of programs and users; whether a process is one of this job stays known."""
    found = dict(record)
    if "process" in found:
        found["process"] = {**found["process"], "name": _program(found["process"].get("name")), "uid": None}
    if "gpu" in found:
        hidden = []
        for one in found["gpu"].get("processes", ()):
            job = one.get("job_id") and ("1" if one["job_id"] == job_id else "2")
            hidden.append({**one, "name": _program(one.get("name")), "uid": None, "job_id": job})
        found["gpu"] = {**found["gpu"], "processes": hidden}
    return found


def _program(name: Any) -> str:
    """Checks ask whether a program is one of the driver's; whose it is otherwise is nobody's business."""
    text = str(name or "")
    return text if text.startswith(("nv", "nvidia")) else "program" if text else ""


def _without_text(event: Mapping[str, Any]) -> dict[str, Any]:
    detail = {key: value for key, value in event.get("detail", {}).items() if key not in _NAMED}
    entity = "server" if event.get("kind") == "nfs" else event.get("entity", "")
    return {**event, "text": "", "entity": entity, "detail": detail}


def _replaced(value: Any, names: Mapping[str, str]) -> Any:
    """Every text with the names replaced; not inside of longer words, and no keys."""
    if isinstance(value, str):
        for old, new in sorted(names.items(), key=lambda pair: -len(pair[0])):
            if old and old in value:
                value = re.sub(rf"(?<![\w-]){re.escape(old)}(?![\w-])", new, value)
        return value
    if isinstance(value, dict):
        return {key: _replaced(one, names) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(one, names) for one in value]
    return value
