"""``python -m hpctrain.devcluster.remedies``: what mends simulated nodes (entry point).

``reboot STATE_DIR NODE`` is the RebootProgram of a private cluster: all of the node's processes die, its simulated kernel
starts anew, and slurmd comes back with ``-b``, which tells slurmctld of a boot (the host itself has not booted).
``reset STATE_DIR NODE GPU`` stands for nvidia-smi --gpu-reset, ``replace STATE_DIR NODE`` for a vendor's replacement.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from hpctrain import process
from hpctrain.clock import SystemClock
from hpctrain.devcluster import daemons, processes
from hpctrain.devcluster.health_setup import has_health, node_files
from hpctrain.devcluster.kill import kill_members
from hpctrain.devcluster.layout import Layout, Spec
from hpctrain.devcluster.lock import cluster_lock
from hpctrain.devcluster.prepare import remove_root_if_empty
from hpctrain.devcluster.state import layout_of, load_spec

BOOT_S = 2.0
"""How long a simulated boot takes; Slurm counts boots in whole seconds, so it must be longer than one."""


def main(arguments: list[str]) -> int:
    """Carry out one remedy; the exit code."""
    if len(arguments) == 4 and arguments[0] == "reset" and arguments[3].isdecimal():
        return _mend(Path(arguments[1]), arguments[2], "reset", int(arguments[3]))
    if len(arguments) != 3 or arguments[0] not in ("reboot", "reboot-now", "replace"):
        sys.stderr.write("usage: remedies reboot|replace STATE_DIR NODE, or reset STATE_DIR NODE GPU\n")
        return 2
    verb, state_dir, node = arguments[0], Path(arguments[1]), arguments[2] or _node_of_slurmd()
    found = _cluster(state_dir)
    if found is None or node not in found[0].node_names:  # an empty name would match the controller
        sys.stderr.write(f"there is no node {node!r} in {state_dir}\n")
        return 1
    if verb == "replace":
        return _mend(state_dir, node, "replace", None)
    if verb == "reboot":
        # slurmd waits for this program, and is to be killed by it: the work is done by a process of its own.
        command = [sys.executable, "-I", "-m", "hpctrain.devcluster.remedies", "reboot-now", str(state_dir), node]
        null = process.DEVNULL
        process.start(command, env=daemons.clean_environment(), cwd="/", stdout=null, stderr=null)
        return 0
    return _reboot(state_dir, node)


def _node_of_slurmd() -> str:
    """The node of the slurmd that has started us, from its arguments: some versions give their programs no environment."""
    parents, pid = processes.parents(), processes.own_pid()
    while pid := parents.get(pid, 0):
        arguments = processes.command_line(pid)
        if processes.program(pid) == "slurmd" and "-N" in arguments[:-1]:
            return arguments[arguments.index("-N") + 1]
    return ""


def _mend(state_dir: Path, node: str, remedy: str, gpu: int | None) -> int:
    found = _cluster(state_dir)
    if found is None:
        return 1
    spec, layout = found
    node_files(layout, spec, node).remedy(remedy, gpu=gpu)
    return 0


def _reboot(state_dir: Path, node: str) -> int:
    name, root = state_dir.name, state_dir.parent
    if _cluster(state_dir) is None:
        return 1
    with cluster_lock(root, name, on_wait=lambda: None) as lock_file:
        found = _cluster(state_dir)
        if found is not None:
            spec, layout = found
            kill_members(layout, lambda member: member.node == node, SystemClock())
            if has_health(layout):
                node_files(layout, spec, node).remedy("reboot")
            time.sleep(BOOT_S)
            daemons.start_slurmd(layout, spec, node, rebooted=True)
            return 0
        lock_file.unlink(missing_ok=True)  # the cluster was taken down meanwhile: leave nothing of it behind
    remove_root_if_empty(root)
    return 1


def _cluster(state_dir: Path) -> tuple[Spec, Layout] | None:
    spec = load_spec(state_dir)
    return None if spec is None else (spec, layout_of(spec, state_dir.parent))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
