"""Put the records of the probes, or of a recording, together into a reading (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from hpctrain.health.gpu import Gpu, GpuProcess
from hpctrain.health.gpu_fields import plausible
from hpctrain.health.reading import ClockState, Disk, FileSystem, NetInterface, PciDevice, Port, Process, Reading, Service

T = TypeVar("T")

_LISTS: Mapping[str, tuple[str, type[Any]]] = {
    "file_system": ("file_systems", FileSystem),
    "pci": ("pci", PciDevice),
    "port": ("ports", Port),
    "interface": ("interfaces", NetInterface),
    "disk": ("disks", Disk),
    "process": ("processes", Process),
    "service": ("services", Service),
}


def assemble(reading: Reading, records: Iterable[Mapping[str, Any]]) -> Reading:
    """Put the probes' records into a reading; what does not fit is left out."""
    lists: dict[str, list[Any]] = {name: [] for name, _ in _LISTS.values()}
    values: dict[str, Any] = {}
    gpus: list[Gpu] = []
    clock: dict[str, Any] = {}
    versions: dict[str, str] = {}
    names = {item.name for item in fields(Reading)} - set(lists)
    for record in records:
        for kind, content in record.items():
            if kind in _LISTS and (item := make(_LISTS[kind][1], content)):
                lists[_LISTS[kind][0]].append(item)
            elif kind == "gpu" and (gpu := _gpu(content)):
                gpus.append(gpu)
            elif kind == "host" and isinstance(content, dict):
                versions |= content.get("versions") or {}
                values |= {key: _frozen(value) for key, value in content.items() if key in names and key != "versions"}
            elif kind == "versions" and isinstance(content, dict):
                versions |= content
            elif kind == "clock" and isinstance(content, dict):
                clock |= content
            elif kind in ("nvml_error", "gpus_seen"):
                values[kind] = content
    values = {key: value for key, value in values.items() if value is not None and key not in ("boot_id", "uptime_s")}
    values |= {name: tuple(items) for name, items in lists.items()}
    values |= {"gpus": tuple(gpus), "versions": versions, "clock": make(ClockState, clock) or ClockState()}
    return replace(reading, **values)


def _gpu(content: Any) -> Gpu | None:
    """A GPU; what a recording claims has to be as plausible as what a driver says."""
    if not isinstance(content, dict):
        return None
    processes = tuple(filter(None, (make(GpuProcess, one) for one in content.get("processes", ()))))
    told = content.get("values")
    values = (
        {key: value for key, value in told.items() if plausible(key, value) is not None} if isinstance(told, dict) else {}
    )
    return make(Gpu, {**content, "processes": processes, "values": values})


def make(cls: type[T], content: Any) -> T | None:
    """A dataclass from a record; None if the record lacks something or holds what the class does not know."""
    try:
        return cls(**{key: _frozen(value) for key, value in content.items()})
    except (TypeError, AttributeError):
        return None


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
