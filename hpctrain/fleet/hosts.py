"""Which hosts a command goes to: names, a file of names, or what Slurm has (service)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpctrain.errors import NotFoundError, StorageError, UsageError
from hpctrain.fleet.find_target import find_target, read_statements
from hpctrain.fleet.target import SshTarget
from hpctrain.slurm.model import Node
from hpctrain.slurm.nodelist import expand, natural_sort

_SILENT = {"NOT_RESPONDING"}


@dataclass(frozen=True, slots=True)
class Choice:
    """What a person chose.

    Attributes:
        nodes: folded lists such as ``n[1-4],login``, or ``user@host:port``.
        hostfile: a file with one of these a line; ``#`` begins a comment.
        everything: all nodes of Slurm.
        silent: the nodes that Slurm finds down, or that do not answer it.
        user: who to be there; "" leaves it to the SSH configuration.
    """

    nodes: tuple[str, ...] = ()
    hostfile: Path | None = None
    everything: bool = False
    silent: bool = False
    user: str = ""


def choose_hosts(choice: Choice, slurm_nodes: Sequence[Node] | None) -> dict[str, SshTarget]:
    """Where to go, by the name under which each host is shown, each once.

    Args:
        slurm_nodes: what Slurm has; None where it was not asked.

    Raises:
        UsageError: nothing was chosen, or a name or the SSH configuration cannot be used.
        NotFoundError: there is no such file, or it names no host.
        StorageError: a file cannot be read.
    """
    names = [name for text in choice.nodes for name in expand_hosts(text)]
    if choice.hostfile is not None:
        names += _read_hostfile(choice.hostfile)
    nodes = slurm_nodes or ()
    if choice.everything:
        names += [node.name for node in nodes]
    if choice.silent:
        names += silent_nodes(nodes)
    if not names:
        if choice.silent:
            raise NotFoundError("Slurm finds no node down, and hears from all of them", hint="name nodes with --nodes")
        if choice.everything:
            raise NotFoundError("Slurm has no nodes")
        raise UsageError("no hosts are named", hint="name them with --nodes n[1-4], --hostfile FILE, --all or --down")
    statements = read_statements()
    return {name: find_target(name, user=choice.user, statements=statements) for name in dict.fromkeys(names)}


def expand_hosts(text: str) -> list[str]:
    """The names in ``n[1-4],login``; an address such as ``[::1]:2222`` or ``user@host:22`` stands for itself.

    Raises:
        UsageError: the brackets do not parse.
    """
    if "@" in text or ":" in text:
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return list(expand(text))
    except ValueError as error:
        raise UsageError(str(error), hint="write n[1-4,7],login") from None


def silent_nodes(nodes: Iterable[Node]) -> list[str]:
    """The nodes that Slurm finds down, or that do not answer it."""
    return list(natural_sort(node.name for node in nodes if node.state == "DOWN" or node.flags & _SILENT))


def _read_hostfile(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotFoundError("there is no such file", where=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot be read: {error}", where=str(path)) from error
    names = [name for line in lines if (text := line.partition("#")[0].strip()) for name in expand_hosts(text)]
    if not names:
        raise NotFoundError("no host is named in this file", where=str(path))
    return names
