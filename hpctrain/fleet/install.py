"""Install, upgrade, compare and take back the health package on many nodes (service)."""

from __future__ import annotations

from dataclasses import dataclass

from hpctrain.errors import ClusterError, HpctrainError, NotFoundError, StorageError, UsageError
from hpctrain.fleet.fleet import Fleet, Host, HostResult
from hpctrain.fleet.health_package import DEFAULT_PYTHON, DEFAULT_ROOT, Package, node_script
from hpctrain.fleet.status import NodeStatus, drift, parse_status
from hpctrain.health.install import DEFAULT_DIR

_ERRORS: dict[int, type[HpctrainError]] = {
    44: NotFoundError, 64: UsageError, 73: StorageError, 74: StorageError, 75: ClusterError, 76: UsageError,
    77: StorageError,
}
"""Exit codes of node/package.sh and node/look.sh."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where things are on a node.

    Attributes:
        root: versions of the package.
        directory: the paths that slurm.conf names.
        python: absolute path of a Python, 3.10 or newer.
    """

    root: str = DEFAULT_ROOT
    directory: str = DEFAULT_DIR
    python: str = DEFAULT_PYTHON


@dataclass(frozen=True, slots=True)
class Report:
    """A node's package after what was done, or before anything is.

    Attributes:
        drift: in what it differs from what it should have.
        changed: something was installed or taken back.
    """

    status: NodeStatus
    drift: tuple[str, ...] = ()
    changed: bool = False


def compare(fleet: Fleet, package: Package, place: Place, *, timeout_s: float) -> list[HostResult[Report]]:
    """What every node has, and in what that differs from the package."""

    def work(host: Host) -> Report:
        status = _run(host, "status", place, timeout_s)
        return Report(status, _drift(status, package))

    return fleet.each(work)


def install(fleet: Fleet, package: Package, place: Place, *, stamp: str, timeout_s: float) -> list[HostResult[Report]]:
    """Give every node the package; a node that has it, unchanged, is left alone.

    Args:
        stamp: names the version that files which are there already become, for going back.
    """

    def work(host: Host) -> Report:
        before = _run(host, "status", place, timeout_s)
        if not _drift(before, package):
            return Report(before)
        after = _run(host, "install", place, timeout_s, name=package.id, stamp=stamp, payload=package.archive)
        left = _drift(after, package)
        if left:
            raise ClusterError(f"was installed, and is not as it should be: {'; '.join(left)}", where=host.label)
        return Report(after, changed=True)

    return fleet.each(work)


def roll_back(fleet: Fleet, place: Place, *, timeout_s: float) -> list[HostResult[Report]]:
    """Have every node use the version before the one in use; done twice, it is the one in use again."""
    return fleet.each(lambda host: Report(_run(host, "rollback", place, timeout_s), changed=True))


def raise_for(host: Host, code: int, said: str) -> None:
    """Turn the exit code of a node's script into an error, if it is one.

    Raises:
        HpctrainError: of the kind that the code means.
    """
    if code:
        kind = _ERRORS.get(code, ClusterError)
        raise kind(said.strip().splitlines()[-1] if said.strip() else f"ended with status {code}", where=host.label)


def _run(
    host: Host, action: str, place: Place, timeout_s: float, *, name: str = "", stamp: str = "", payload: bytes = b""
) -> NodeStatus:
    arguments = [action, place.root, place.directory, place.python, name, stamp]
    script = node_script("package.sh")
    done = host.run_script(script, arguments, payload=payload, timeout_s=timeout_s)
    raise_for(host, done.returncode, done.error_text())
    return parse_status(done.text())


def _drift(status: NodeStatus, package: Package) -> tuple[str, ...]:
    return drift(status, package.id, package.manifest, package.config)
