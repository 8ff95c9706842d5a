"""Health checks on a private cluster: simulated kernels and GPUs for its nodes, and Slurm's settings (service)."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from hpctrain.devcluster.control import Control
from hpctrain.devcluster.faults import Fault
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.node_files import NodeFiles
from hpctrain.devcluster.nvml_library import build_nvml
from hpctrain.devcluster.simulated_node import BOOTED, NodeKind, health_config
from hpctrain.devcluster.slurm_conf import render_health_conf
from hpctrain.errors import ClusterError
from hpctrain.files import make_private_dir, write_atomic, write_json_atomic
from hpctrain.resources import SLURM_SCRIPTS, shipped_file

SCRIPTS = ("prolog.sh", "epilog.sh", "health_program.sh")
_EXECUTABLE = 0o700
_SETTLE_S = 5.0


def has_health(layout: Layout) -> bool:
    """The cluster's nodes are checked."""
    return (layout.health_dir / "health.json").exists()


def enable_health(layout: Layout, spec: Spec, *, interval_s: int = 30) -> None:
    """Give every node a simulated kernel and GPUs, and let Slurm check them; nodes that have them keep them.

    Raises:
        MissingDependencyError: there is no C compiler.
        ClusterError: the library does not compile, or the controller does not answer.
        StorageError: a file cannot be written.
    """
    kind = NodeKind(gpus=spec.gpus_per_node)
    nodes = make_private_dir(make_private_dir(layout.health_dir) / "nodes")
    library = build_nvml(layout.health_dir)
    for node in spec.node_names:
        if not (nodes / node).exists():
            NodeFiles(nodes / node, node, kind).create(library)
    state_dir = str(layout.health_dir / "verdicts")
    config = health_config(str(nodes), kind=kind, state_dir=state_dir)
    settings = layout.health_dir / "health.env"
    site = layout.health_dir / "health.json"
    mending = {"drain_via": "scontrol", "slurm_conf": str(layout.slurm_conf), **remedy_config(layout)}
    write_json_atomic(site, {**config, **mending}, durable=False)
    places = {"HPCTRAIN_HEALTH_CONFIG": str(site), "HPCTRAIN_HEALTH_STATE": state_dir}
    variables = {**places, "SLURM_CONF": str(layout.slurm_conf)}
    exports = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    write_atomic(settings, f"HPCTRAIN_PYTHON={shlex.quote(sys.executable)}\nexport {exports}\n", durable=False)
    for script in SCRIPTS:
        _write_wrapper(layout.health_dir / script, settings, shipped_file(SLURM_SCRIPTS, script), nodes)
    write_atomic(layout.health_conf, render_health_conf(layout, interval_s), durable=False)
    Control(layout).reconfigure()


def remedy_config(layout: Layout) -> dict[str, object]:
    """How simulated nodes are mended; they settle and recover in seconds, and any number may be mended at a time."""
    program = [sys.executable, "-I", "-m", "hpctrain.devcluster.remedies"]
    return {
        "settle_s": _SETTLE_S,
        "remedies": {
            "journal": str(layout.health_dir / "remedies"),
            "reset": [*program, "reset", str(layout.state_dir), "{node}", "{gpu}"],
            "replace": [*program, "replace", str(layout.state_dir), "{node}"],
            "limits": {"recovery_s": 5, "drained_percent": 50},
        },
    }


def _write_wrapper(path: Path, settings: Path, script: Path, nodes: Path) -> None:
    """Slurm's settings take a path without arguments or environment, and every private cluster has settings of its own.

    The simulated kernel has no clock of its own, so its uptime is set before each look.
    """
    lines = (
        "#!/bin/sh",
        f"node={shlex.quote(str(nodes))}/$SLURMD_NODENAME",
        f'if read -r booted <"$node/{BOOTED}"; then',
        '    echo "$(($(/bin/date +%s) - booted)).00 0.00" >"$node/proc/uptime.$$"',
        '    /bin/mv "$node/proc/uptime.$$" "$node/proc/uptime"',
        "fi",
        f"export HPCTRAIN_HEALTH_SETTINGS={shlex.quote(str(settings))}",
        f"exec /bin/sh {shlex.quote(str(script))}",
    )
    write_atomic(path, "\n".join(lines) + "\n", mode=_EXECUTABLE, durable=False)


def node_files(layout: Layout, spec: Spec, node: str) -> NodeFiles:
    """The simulated kernel and GPUs of a node.

    Raises:
        ClusterError: the cluster was made without health checks.
    """
    if not has_health(layout):
        hint = f"run 'hpctrain cluster up --health --name {spec.name}' first"
        raise ClusterError(f"the nodes of private cluster '{spec.name}' have no simulated kernels to break", hint=hint)
    return NodeFiles(layout.health_dir / "nodes" / node, node, NodeKind(gpus=spec.gpus_per_node))


def inject(layout: Layout, spec: Spec, node: str, fault: Fault, number: int, *, until: str = "") -> None:
    """Break a node, until the catalogue's remedy or another. Raises ClusterError as :func:`node_files`, StorageError."""
    node_files(layout, spec, node).break_(fault, number, until)


def heal(layout: Layout, spec: Spec, node: str) -> None:
    """Undo every fault of a node, as a repair and a reboot would; it stays out of service until it is undrained."""
    node_files(layout, spec, node).heal(reboot=True)
