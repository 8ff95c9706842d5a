"""What a node says of its health package, and how that differs from what it should have (pure)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_SHORT = 8


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The health package of a node.

    Attributes:
        current: the version in use; "" for none.
        previous: the one before.
        python: version of the Python that was named; "" where there is none.
        manifest: SHA-256 of the list of its files.
        config: SHA-256 of its configuration; "" where it has none.
        changed: files that are not as they were installed.
        foreign: paths of slurm.conf where something else than our link is.
        unlinked: paths of slurm.conf where nothing is.
    """

    current: str = ""
    previous: str = ""
    python: str = ""
    manifest: str = ""
    config: str = ""
    changed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    unlinked: tuple[str, ...] = ()


def parse_status(text: str) -> NodeStatus:
    """The status that ``package.sh`` prints; lines that are none are passed over."""
    single: dict[str, str] = {}
    several: dict[str, list[str]] = {"changed": [], "foreign": [], "unlinked": []}
    for line in text.splitlines():
        key, found, value = line.partition("=")
        if found and key in several:
            several[key].append(value)
        elif found and key in ("current", "previous", "python", "manifest", "config"):
            single[key] = value
    changed, foreign, unlinked = (tuple(several[key]) for key in ("changed", "foreign", "unlinked"))
    return NodeStatus(**single, changed=changed, foreign=foreign, unlinked=unlinked)


def drift(status: NodeStatus, wanted: str, manifest: str, config: str) -> tuple[str, ...]:
    """In what a node differs from what it should have, one phrase each; nothing where it is as it should be.

    Args:
        wanted: the version it should have.
        manifest, config: of that version, as in :class:`NodeStatus`.
    """
    if not status.current:
        return ("nothing is installed",)
    found = []
    if status.current != wanted:
        found.append(f"has version {status.current}")
        if status.config != config:
            found.append(f"has configuration {short(status.config)}")
    elif status.manifest != manifest:
        found.append("the list of its files was changed")
    if status.changed:
        found.append(f"changed: {_some(status.changed)}")
    if status.foreign:
        found.append(f"not ours: {_some(status.foreign)}")
    if status.unlinked:
        found.append(f"not linked: {_some(status.unlinked)}")
    return tuple(found)


def short(digest: str) -> str:
    """A hash as people read it; ``none`` for no configuration."""
    return digest[:_SHORT] or "none"


def _some(names: Iterable[str], most: int = 4) -> str:
    listed = sorted(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
