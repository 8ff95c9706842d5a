"""Where private clusters keep their files, and which of them run (adapter over the state directory).

Cheap enough for every command: a few small files and /proc, no Slurm command.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from hpctrain.devcluster import processes
from hpctrain.devcluster.layout import DEFAULT_NAME, Layout, Spec, check_name
from hpctrain.errors import ClusterError, NotFoundError
from hpctrain.files import write_json_atomic

__all__ = [
    "DEFAULT_NAME", "ClusterInfo", "Layout", "Spec", "check_name", "daemon_pid", "describe", "find_cluster",
    "is_for_one_run", "known_clusters", "layout_of", "load_spec", "name_for_one_run", "running_clusters", "save_spec",
    "state_root",
]

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """One private cluster as its files and /proc show it.

    Attributes:
        slurm_conf: value for ``SLURM_CONF``.
        slurmctld_pid: None while the controller does not run.
        munged_pid: None while munged does not run.
    """

    name: str
    slurm_conf: str
    state_dir: Path
    nodes: tuple[str, ...]
    gpus_per_node: int
    munge_socket: str
    controller_port: int
    slurmctld_pid: int | None = None
    munged_pid: int | None = None

    @property
    def env(self) -> dict[str, str]:
        """Variables that point Slurm's commands and hpctrain at this cluster."""
        found = {"SLURM_CONF": self.slurm_conf, "HPCTRAIN_CLUSTER": self.name}
        checks = self.state_dir / "health" / "health.json"
        return found | ({"HPCTRAIN_HEALTH_CONFIG": str(checks)} if checks.exists() else {})


def state_root(env: Mapping[str, str] | None = None) -> Path:
    """Directory of all private clusters of this user; it need not exist.

    ``$HPCTRAIN_STATE_DIR/clusters``, or ``$XDG_STATE_HOME/hpctrain/clusters``, or
    ``~/.local/state/hpctrain/clusters``.
    """
    env = os.environ if env is None else env
    if own := env.get("HPCTRAIN_STATE_DIR"):
        base = Path(own)
    elif xdg := env.get("XDG_STATE_HOME"):
        base = Path(xdg) / "hpctrain"
    else:
        base = Path("~/.local/state/hpctrain").expanduser()
    return base.absolute() / "clusters"


def load_spec(state_dir: Path) -> Spec | None:
    """What the cluster was made with; None where the record is missing or damaged (a half-made cluster)."""
    try:
        record = json.loads((state_dir / "cluster.json").read_text())
        if record.pop("version") != RECORD_VERSION:
            return None
        return Spec(**record)
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None


def save_spec(state_dir: Path, spec: Spec) -> None:
    """Write the record of a cluster."""
    write_json_atomic(state_dir / "cluster.json", {"version": RECORD_VERSION, **asdict(spec)})


def layout_of(spec: Spec, root: Path | None = None) -> Layout:
    """Paths of a cluster."""
    return Layout((root or state_root()) / spec.name, Path(spec.runtime_dir))


def daemon_pid(layout: Layout, daemon: str) -> int | None:
    """Pid of ``munged``, ``slurmctld`` or a node's slurmd, None unless it runs and is this cluster's."""
    pid = processes.read_pid_file(layout.pid_file(daemon))
    if pid is None or not processes.is_alive(pid):
        return None
    mark = f"--socket={layout.munge_socket}" if daemon == "munged" else str(layout.slurm_conf)
    arguments = processes.command_line(pid)
    # A pid file outlives a crash or a reboot, and the pid may be another program's by now: the arguments decide.
    if mark not in arguments or (daemon not in ("munged", "slurmctld") and daemon not in arguments):
        return None
    return pid


def describe(spec: Spec, layout: Layout) -> ClusterInfo:
    """A cluster with its daemons' pids, as they are now."""
    return ClusterInfo(
        name=spec.name,
        slurm_conf=str(layout.slurm_conf),
        state_dir=layout.state_dir,
        nodes=spec.node_names,
        gpus_per_node=spec.gpus_per_node,
        munge_socket=str(layout.munge_socket),
        controller_port=spec.controller_port,
        slurmctld_pid=daemon_pid(layout, "slurmctld"),
        munged_pid=daemon_pid(layout, "munged"),
    )


def known_clusters(root: Path | None = None) -> list[ClusterInfo]:
    """All private clusters of this user that have a record, running or not, by name."""
    root = root or state_root()
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []
    specs = [spec for name in names if (spec := load_spec(root / name)) is not None and spec.name == name]
    return [describe(spec, layout_of(spec, root)) for spec in specs]


def running_clusters() -> list[ClusterInfo]:
    """The private clusters of this user whose controller runs, by name."""
    return [cluster for cluster in known_clusters() if cluster.slurmctld_pid is not None]


def name_for_one_run(pid: int) -> str:
    """The name of a cluster that a process makes for its own run, and takes down with it."""
    return f"run-{pid}"


def is_for_one_run(name: str) -> bool:
    """Whether a cluster goes away with the run that it was made for."""
    return re.fullmatch(r"run-\d+", name) is not None


def find_cluster(name: str) -> ClusterInfo:
    """The running private cluster of that name.

    Raises:
        NotFoundError: there is none of that name.
        ClusterError: it exists, but its controller does not run.
    """
    for cluster in known_clusters():
        if cluster.name != name:
            continue
        if cluster.slurmctld_pid is None:
            raise ClusterError(f"private cluster '{name}' is not running", hint=f"run 'hpctrain cluster up --name {name}'")
        return cluster
    running = ", ".join(cluster.name for cluster in running_clusters())
    hint = f"running: {running}" if running else f"make it with 'hpctrain cluster up --name {name}'"
    raise NotFoundError(f"there is no private cluster '{name}'", hint=hint)
