"""Starting munged, slurmctld and slurmd, and saying why one did not start (adapter over these programs)."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hpctrain import process
from hpctrain.devcluster import ports
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.slurm_conf import parse_version
from hpctrain.devcluster.state import daemon_pid
from hpctrain.errors import ClusterError, MissingDependencyError

START_TIMEOUT_S = 30.0
NODE_VARIABLE = "HPCTRAIN_NODE"
"""Tells a node's RebootProgram which node it is to reboot."""

_POLL_S = 0.02
_SHOWN_LINES = 8

PACKAGES: Mapping[str, str] = {
    "munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd",
    "scontrol": "slurm-client", "srun": "slurm-client", "sbatch": "slurm-client",
}
"""Debian's package of each program that a private cluster needs."""

# Complaints that Slurm logs as errors on every healthy first start, or that a private cluster need not care about.
_HARMLESS = re.compile(
    r"pmix|PMIx|Could not open \w+ state file|Trying backup state save file|Domain socket directory|hwloc_topo_load"
)
_TIMESTAMP = re.compile(r"^\[?\d{4}-\d\d-\d\d[T ][\d:.]+\]?( [+-]\d{4})? *")


def require_programs() -> None:
    """Check that everything is installed.

    Raises:
        MissingDependencyError: something is not; the hint has the command that installs it.
    """
    missing = [program for program in PACKAGES if process.find(program) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[program] for program in missing))
        hint = f"on Debian and Ubuntu: sudo apt-get install {packages}"
        raise MissingDependencyError(f"a private cluster needs {', '.join(missing)}, not installed here", hint=hint)


def slurm_version() -> tuple[int, int]:
    """Major and minor version of the installed slurmd."""
    return parse_version(process.run([program("slurmd"), "-V"], timeout_s=START_TIMEOUT_S).stdout)


def program(name: str) -> str:
    """Absolute path of a program.

    Raises:
        MissingDependencyError: it is not installed.
    """
    path = process.find(name)
    if path is None:
        hint = f"on Debian and Ubuntu: sudo apt-get install {PACKAGES.get(name, name)}"
        raise MissingDependencyError(f"{name} is not installed", hint=hint)
    return path


def munged_command(layout: Layout) -> list[str]:
    """How munged is started.

    ``--force`` because munged otherwise insists that others can reach its socket, and refuses a home directory that
    the user's group may write to; the state directory is open to its owner only.
    """
    return [
        program("munged"), "--force", f"--key-file={layout.munge_key}", f"--socket={layout.munge_socket}",
        f"--pid-file={layout.pid_file('munged')}", f"--log-file={layout.log('munged')}",
        f"--seed-file={layout.state_dir / 'munge.seed'}",
    ]


def slurmctld_command(layout: Layout) -> list[str]:
    """How slurmctld is started."""
    return [program("slurmctld"), "-f", str(layout.slurm_conf)]


def slurmd_command(layout: Layout, node: str, *, rebooted: bool = False) -> list[str]:
    """How a node's slurmd is started; ``rebooted`` makes it tell slurmctld that the node has booted."""
    return [program("slurmd"), "-N", node, "-f", str(layout.slurm_conf), *(["-b"] if rebooted else [])]


def start_munged(layout: Layout) -> None:
    """Start munged and wait for its socket. Raises ClusterError with its log if it does not come up."""
    _start(layout, "munged", munged_command(layout), layout.munge_socket.exists)


def start_slurmctld(layout: Layout, spec: Spec) -> None:
    """Start slurmctld and wait for its port. Raises ClusterError with its log if it does not come up."""
    _require_port(spec.controller_port, "slurmctld", spec)
    _start(layout, "slurmctld", slurmctld_command(layout), lambda: ports.listens(spec.controller_port))


def start_slurmd(layout: Layout, spec: Spec, node: str, *, rebooted: bool = False) -> None:
    """Start a node's slurmd; it registers with slurmctld later. Raises ClusterError with its log if it ends at once."""
    _require_port(spec.slurmd_port(node), f"slurmd of node {node}", spec)
    (layout.spool / node).mkdir(mode=0o755, parents=True, exist_ok=True)
    _start(layout, node, slurmd_command(layout, node, rebooted=rebooted), lambda: True, {NODE_VARIABLE: node})


def why_down(layout: Layout, daemon: str, *, since_byte: int = 0) -> str:
    """The lines of a daemon's log that say why it ended: its errors, or failing these its last lines."""
    try:
        with layout.log(daemon).open("rb") as file:
            file.seek(since_byte)
            lines = file.read()[-200_000:].decode(errors="replace").splitlines()
    except OSError:
        return ""
    told = [line for line in lines if re.search(r"error|fatal", line, re.IGNORECASE) and not _HARMLESS.search(line)]
    return "\n".join(_TIMESTAMP.sub("", line) for line in (told or lines)[-_SHOWN_LINES:])


def _require_port(port: int, daemon: str, spec: Spec) -> None:
    if not ports.is_free(port):
        hint = f"end that program; or 'hpctrain cluster down --name {spec.name}' and up again, for other ports"
        raise ClusterError(f"port {port} of {daemon} is in use by another program", hint=hint)


def _start(
    layout: Layout, daemon: str, command: list[str], ready: Callable[[], bool], variables: Mapping[str, str] | None = None
) -> None:
    before = _size(layout.log(daemon))
    # Every daemon puts itself into the background, in a session of its own and with closed stdio, once it has read
    # its configuration; what it finds wrong until then comes on standard error.
    result = process.run(command, timeout_s=START_TIMEOUT_S, env=clean_environment() | dict(variables or {}), cwd="/")
    deadline = time.monotonic() + START_TIMEOUT_S
    while result.ok:
        pid = daemon_pid(layout, daemon)
        if pid is not None and ready():
            return
        # A daemon writes its pid file a moment after its parent has returned to us, and removes it when it gives up.
        if time.monotonic() > deadline or (pid is None and _gave_up(layout, daemon, before)):
            break
        time.sleep(_POLL_S)
    raise ClusterError(_failure(layout, daemon, result, before), where=str(layout.log(daemon)))


def _failure(layout: Layout, daemon: str, result: process.Result, before: int) -> str:
    name = daemon if daemon in ("munged", "slurmctld") else f"slurmd of node {daemon}"
    told = why_down(layout, daemon, since_byte=before) or result.stderr.strip()
    how = "did not answer in time" if result.timed_out else "did not start"
    return f"{name} {how}" + (":\n  " + told.replace("\n", "\n  ") if told else "")


def _gave_up(layout: Layout, daemon: str, before: int) -> bool:
    return "fatal" in why_down(layout, daemon, since_byte=before).lower()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def clean_environment() -> dict[str, str]:
    """What daemons are started with: nothing of the caller's.

    Otherwise a cluster made from within a job would inherit that job's variables, and be taken for a part of it.
    """
    user = pwd.getpwuid(os.geteuid())
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name, "LANG": "C.UTF-8",
    }
