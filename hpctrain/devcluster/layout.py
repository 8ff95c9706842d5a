"""What a private cluster is made of: its size, its ports and the places of its files (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpctrain.errors import UsageError

DEFAULT_NAME = "default"
DEFAULT_NODES = 4
DEFAULT_GPUS_PER_NODE = 8
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
"""Names that are safe in a path, in ClusterName and in a shell."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a cluster was made with; kept in ``cluster.json`` and never changed while the cluster exists.

    Attributes:
        controller_port: slurmctld's port; the nodes' slurmd follow on the next ``nodes`` ports.
        runtime_dir: directory of sockets and spools: the state directory, or a short one where that is too long.
    """

    name: str
    nodes: int
    gpus_per_node: int
    controller_port: int
    runtime_dir: str

    @property
    def node_names(self) -> tuple[str, ...]:
        """``n1`` to ``nN``."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    def slurmd_port(self, node: str) -> int:
        """Port of a node's slurmd."""
        return self.controller_port + int(node[1:])


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one cluster; nothing here touches the file system."""

    state_dir: Path
    runtime_dir: Path

    @property
    def record(self) -> Path:
        """``cluster.json``, the :class:`Spec`."""
        return self.state_dir / "cluster.json"

    @property
    def slurm_conf(self) -> Path:
        """slurm.conf; Slurm looks for gres.conf and cgroup.conf beside it."""
        return self.state_dir / "conf" / "slurm.conf"

    @property
    def health_conf(self) -> Path:
        """The part of slurm.conf that runs health checks; empty but for a remark while there are none."""
        return self.state_dir / "conf" / "health.conf"

    @property
    def reboot_program(self) -> Path:
        """What slurmd runs when its node is to be rebooted."""
        return self.state_dir / "conf" / "reboot.sh"

    @property
    def health_dir(self) -> Path:
        """Scripts, settings and verdicts of health checks, and the simulated kernel of each node."""
        return self.state_dir / "health"

    @property
    def munge_key(self) -> Path:
        """The cluster's own munge key."""
        return self.state_dir / "munge.key"

    @property
    def munge_socket(self) -> Path:
        """Socket of munged; the lock file that munged makes beside it has the same name and ``.lock``."""
        return self.runtime_dir / "munge.socket"

    @property
    def spool(self) -> Path:
        """One spool directory per node; slurmstepd makes its sockets there."""
        return self.runtime_dir / "spool"

    @property
    def controller_state(self) -> Path:
        """StateSaveLocation: the queue, which survives restarts."""
        return self.state_dir / "controller"

    @property
    def gpus(self) -> Path:
        """Empty files that stand for GPU devices."""
        return self.state_dir / "gpus"

    @property
    def logs(self) -> Path:
        """Logs of all daemons."""
        return self.state_dir / "log"

    @property
    def pids(self) -> Path:
        """Pid files of all daemons."""
        return self.state_dir / "pid"

    @property
    def directories(self) -> tuple[Path, ...]:
        """All directories, parents first."""
        return (
            self.state_dir, self.slurm_conf.parent, self.controller_state, self.gpus, self.logs, self.pids,
            self.runtime_dir, self.spool,
        )

    def log(self, daemon: str) -> Path:
        """Log of ``munged``, ``slurmctld`` or a node's slurmd (by node name)."""
        return self.logs / f"{daemon}.log"

    def pid_file(self, daemon: str) -> Path:
        """Pid file of ``munged``, ``slurmctld`` or a node's slurmd (by node name)."""
        return self.pids / f"{daemon}.pid"


def check_name(name: str) -> str:
    """Return the name if it may be a cluster's.

    Raises:
        UsageError: it may not.
    """
    if not NAME_PATTERN.fullmatch(name):
        hint = "use lower-case letters, digits, '-' and '_', at most 40, beginning with a letter or digit"
        raise UsageError(f"{name!r} cannot be the name of a cluster", hint=hint)
    return name
