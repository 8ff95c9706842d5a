"""Run the health checks' probes on a host that need not have hpctrain, nor be heard by Slurm (service)."""

from __future__ import annotations

import json
from typing import Any

from hpctrain.errors import ClusterError
from hpctrain.fleet.fleet import Fleet, Host, HostResult
from hpctrain.fleet.health_package import Package, node_script
from hpctrain.fleet.install import Place, raise_for


def check(fleet: Fleet, package: Package, place: Place, *, timeout_s: float) -> list[HostResult[dict[str, Any]]]:
    """Judge every host with the checks of this installation and the settings of the host; drains nothing."""
    return fleet.each(lambda host: look(host, "check", package, place, timeout_s=timeout_s))


def look(host: Host, what: str, package: Package, place: Place, *, timeout_s: float) -> dict[str, Any]:
    """Send the package, run it once, and take its answer.

    Args:
        what: ``check`` for a verdict, ``record`` for what the probes see.

    Raises:
        HpctrainError: it could not be run there; says why.
    """
    done = host.run_script(
        node_script("look.sh"), [what, place.directory, place.python], payload=package.archive, timeout_s=timeout_s
    )
    raise_for(host, done.returncode, done.error_text())
    try:
        document = json.loads(done.stdout)
    except ValueError:
        raise ClusterError(f"its answer is no JSON: {done.text()[:200]!r}", where=host.label) from None
    if not isinstance(document, dict):
        raise ClusterError("its answer is no JSON object", where=host.label)
    return document
