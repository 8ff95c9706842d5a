"""Collect what a person needs to understand a node's trouble, from many nodes, without secrets (service).

Every text is redacted here, before it is written anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hpctrain import __version__
from hpctrain.errors import HpctrainError, RemoteTimeoutError, StopRequested, UnreachableError
from hpctrain.fleet.bundle import Item
from hpctrain.fleet.collect_items import SOURCES, Source, also_sources, health_sources, refused
from hpctrain.fleet.fleet import Fleet, Host, HostResult
from hpctrain.fleet.health_package import Package
from hpctrain.fleet.install import Place
from hpctrain.fleet.look import look
from hpctrain.fleet.redact import redact, redact_bytes

DEFAULT_LIMIT_BYTES = 8 * 2**20
_COMMAND_S = 20.0
_NOT_FOUND, _MISSING_HERE = 127, 1


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be collected.

    Attributes:
        limit_bytes: of all files of one host, before they are compressed.
        timeout_s: of all commands on one host.
        also: further files, by absolute path.
    """

    limit_bytes: int = DEFAULT_LIMIT_BYTES
    timeout_s: float = 120.0
    also: tuple[str, ...] = ()


@dataclass(slots=True)
class Collected:
    """What one host gave.

    Attributes:
        files: for the manifest: name, length, what was left out or taken out.
        missing: by name, why there is no such file.
    """

    items: list[Item] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    redacted: int = 0
    used_bytes: int = 0
    error: str = ""


def collect(fleet: Fleet, wish: Wish, package: Package, place: Place) -> list[HostResult[Collected]]:
    """Collect from every host; a host that breaks off in the middle keeps what it gave."""
    return fleet.each(lambda host: _Collector(host, wish).collect(package, place))


def make_bundle(
    results: Sequence[HostResult[Collected]], slurm: Sequence[Item], slurm_problems: Mapping[str, str], *,
    now: float, by: str
) -> tuple[list[Item], dict[str, Any]]:
    """All files of a bundle, the manifest first, and the manifest."""
    hosts: dict[str, Any] = {}
    items: list[Item] = []
    for result in results:
        entry: dict[str, Any] = {"ok": result.error is None, "seconds": round(result.seconds, 1)}
        if result.error is not None:
            entry["error"] = redact(str(result.error))[0]
        if result.value is not None:
            found = result.value
            entry |= {"files": found.files, "missing": found.missing, "redacted": found.redacted, "bytes": found.used_bytes}
            if found.error:
                entry |= {"ok": False, "error": redact(found.error)[0]}
            items += found.items
        hosts[result.host] = entry
    clean = [(item.path, *redact_bytes(item.data)) for item in slurm]
    items += [Item(path, data) for path, data, _ in clean]
    manifest = {
        "format": "hpctrain support bundle",
        "version": 1,
        "hpctrain": __version__,
        "time": now,
        "by": by,
        "slurm": {
            "files": [{"name": path, "bytes": len(data), "redacted": count} for path, data, count in clean],
            "missing": {name: redact(why)[0] for name, why in slurm_problems.items()},
        },
        "hosts": hosts,
    }
    return [Item("manifest.json", (json.dumps(manifest, indent=1) + "\n").encode()), *items], manifest


class _Collector:
    """Asks one host, one thing after the other."""

    def __init__(self, host: Host, wish: Wish) -> None:
        self._host = host
        self._wish = wish
        self._found = Collected()

    def collect(self, package: Package, place: Place) -> Collected:
        """Everything, or as much of it as the host gives before it breaks off."""
        sources = list(SOURCES)
        try:
            sources += self._look(package, place)
            sources += self._also()
            for source in sources:
                self._take(source)
        except StopRequested:
            raise
        except UnreachableError as error:
            self._found.error = str(error)
        return self._found

    def _look(self, package: Package, place: Place) -> list[Source]:
        """What the probes of the health checks see, NVML's among them; then where their journal is."""
        try:
            document = look(self._host, "record", package, place, timeout_s=min(60.0, self._wish.timeout_s))
        except RemoteTimeoutError as error:
            self._found.missing["health/recording.json"] = str(error)
            return []
        except UnreachableError:
            raise
        except HpctrainError as error:
            self._found.missing["health/recording.json"] = redact(str(error))[0]
            return []
        self._add("health/recording.json", (json.dumps(document["recording"], indent=1) + "\n").encode(), 0)
        return health_sources(str(document["state_dir"]), str(document["node"]))

    def _also(self) -> list[Source]:
        wanted = []
        for path in self._wish.also:
            # Where a link leads decides: /tmp/x may be the munge key.
            real = self._host.run(["readlink", "-e", "--", path], timeout_s=_COMMAND_S, keep_bytes=8192).text().rstrip("\n")
            why = refused(path) or (refused(real) if real else "there is no such file")
            if why:
                self._found.missing["also" + path] = why
            else:
                wanted.append(real)
        return also_sources(wanted)

    def _take(self, source: Source) -> None:
        room = self._wish.limit_bytes - self._found.used_bytes
        if room <= 0:
            self._found.missing[source.name] = "left out: the host's limit is reached"
            return
        try:
            done = self._host.run(source.argv, timeout_s=_COMMAND_S, keep_bytes=min(source.keep_bytes, room))
        except RemoteTimeoutError as error:
            self._found.missing[source.name] = str(error)
            return
        if done.returncode == _NOT_FOUND:
            self._found.missing[source.name] = f"there is no '{source.argv[0]}'"
        elif not done.ok and not done.stdout:
            why = done.error_text().splitlines()
            self._found.missing[source.name] = redact(why[-1] if why else f"exit {done.returncode}")[0]
        else:
            self._add(source.name, done.stdout, done.dropped_bytes)

    def _add(self, name: str, data: bytes, dropped_bytes: int) -> None:
        clean, count = redact_bytes(data)
        clean = clean[: max(0, self._wish.limit_bytes - self._found.used_bytes)]
        self._found.items.append(Item(f"hosts/{_safe(self._host.label)}/{name}", clean))
        self._found.files.append({"name": name, "bytes": len(clean), "left_out": dropped_bytes, "redacted": count})
        self._found.used_bytes += len(clean)
        self._found.redacted += count


def _safe(label: str) -> str:
    """A host's name as the name of a directory."""
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in label).lstrip(".") or "host"
