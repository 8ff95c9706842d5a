"""What Slurm's controller says of nodes and jobs, as it prints it (adapter over Slurm's commands)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpctrain import process
from hpctrain.errors import MissingDependencyError
from hpctrain.fleet.bundle import Item
from hpctrain.fleet.kept import Kept
from hpctrain.slurm.commands import clean_environment

_KEEP_BYTES = 2 * 2**20
_COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("ping.txt", ("scontrol", "ping")),
    ("config.txt", ("scontrol", "show", "config")),
    ("jobs.txt", ("scontrol", "--details", "show", "job")),
    ("partitions.txt", ("scontrol", "show", "partition")),
    ("reservations.txt", ("scontrol", "show", "reservation")),
    ("reasons.txt", ("sinfo", "--list-reasons", "--Node", "--long")),
)


def slurm_state(env: Mapping[str, str], nodes: Sequence[str], *, timeout_s: float) -> tuple[list[Item], dict[str, str]]:
    """Files with what Slurm says, and by file why one is missing.

    Args:
        env: the environment for Slurm's commands, which says which cluster.
        nodes: names of nodes; all of Slurm's where none is named.
        timeout_s: for each command.
    """
    items: list[Item] = []
    problems: dict[str, str] = {}
    show_nodes = ("scontrol", "--details", "show", "node", *([",".join(nodes)] if nodes else []))
    for name, argv in (("nodes.txt", show_nodes), *_COMMANDS):
        path = process.find(argv[0])
        try:
            if path is None:
                raise MissingDependencyError(f"{argv[0]} is not installed here")
            done = process.run([path, *argv[1:]], timeout_s=timeout_s, env={**clean_environment(env), "LC_ALL": "C"})
        except MissingDependencyError as error:
            problems[name] = str(error)
            continue
        if done.stdout:
            kept = Kept(_KEEP_BYTES)
            kept.add(done.stdout.encode())
            items.append(Item(f"slurm/{name}", kept.value()))
        if not done.ok:
            problems[name] = "no answer" if done.timed_out else done.stderr.strip() or f"exit {done.returncode}"
    return items, problems
