"""Slurm's folded node lists, ``n[1-3],m1x``, and back (pure).

ClusterShell does the work, held to what Slurm accepts: Slurm folds only a number at the *end* of a name, so
``n[1-3]x`` is refused by its commands and is never written here. ClusterShell is imported on first use, because it
costs more than the rest of a command's start.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hpctrain.ids import NodeName

_NO_NODES = frozenset({"", "(null)", "none", "none assigned", "n/a", "unknown"})
_DIGITS = re.compile(r"(\d+)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BRACKET = re.compile(r"^([^\[\]]*)\[([^\[\]]*)\]([^\[\]]*)$")


def expand(text: str | None) -> tuple[NodeName, ...]:
    """Names in a folded list, each once, in the order Slurm wrote them (the order of ``SLURM_NODEID``).

    ``None``, an empty text, ``(null)``, ``None assigned`` and ``n/a`` are no nodes.

    Raises:
        ValueError: the brackets or ranges do not parse; the message holds the text.
    """
    if text is None or text.strip().lower() in _NO_NODES:
        return ()
    names = (name for item in _split_top_level(text.strip()) for name in _expand_item(item))
    return tuple(dict.fromkeys(names))


def fold(names: Iterable[str]) -> str:
    """The shortest list in natural order that Slurm's own commands accept; "" for no names.

    Raises:
        ValueError: a name has a character that no node name may have.
    """
    ordered = natural_sort(set(names))
    for name in ordered:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a node name")
    foldable = [name for name in ordered if name[-1].isdigit()]
    parts: list[str] = [name for name in ordered if not name[-1].isdigit()]
    parts += _split_top_level(str(_node_set(",".join(foldable)))) if len(foldable) > 1 else foldable
    return ",".join(natural_sort(parts))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``n9`` comes before ``n10``."""
    return tuple((1, int(part), part) if part.isdecimal() else (0, 0, part) for part in _DIGITS.split(name) if part)


def natural_sort(names: Iterable[str]) -> list[NodeName]:
    """The names with their numbers in numeric order."""
    return [NodeName(name) for name in sorted(names, key=natural_key)]


def _split_top_level(text: str) -> list[str]:
    """Split at the commas that are outside brackets."""
    items, depth, start = [], 0, 0
    for position, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            raise ValueError(f"{text!r} is not a node list")
        if char == "," and depth == 0:
            items.append(text[start:position])
            start = position + 1
    if depth:
        raise ValueError(f"{text!r} is not a node list")
    return [item.strip() for item in [*items, text[start:]] if item.strip()]


def _expand_item(item: str) -> Iterable[NodeName]:
    if "[" not in item:
        return (NodeName(item),)
    match = _BRACKET.match(item)
    # Range by range: ClusterShell sorts what is in one bracket, Slurm may have meant the order.
    ranges = [f"{match[1]}[{part}]{match[3]}" for part in match[2].split(",")] if match else [item]
    return [NodeName(name) for text in ranges for name in _node_set(text)]


def _node_set(text: str) -> Any:
    from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

    try:
        nodes = NodeSet(text, resolver=RESOLVER_NOGROUP)
    except NodeSetException as error:
        raise ValueError(f"{text!r} is not a node list: {error}") from None
    nodes.fold_axis = (-1,)
    return nodes
