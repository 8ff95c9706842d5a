"""A recipe's values, each with the place it was written at (pure)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Path = tuple[str | int, ...]
"""Keys and list indices from the top of a recipe down to a value."""

DEFAULT_ORIGIN = "default"


@dataclass(frozen=True, slots=True)
class Node:
    """One value and where it came from.

    Attributes:
        value: a scalar, a list of nodes or a mapping of nodes.
        origin: ``file:line``, ``--set KEY`` or a settings file.
        written: the text of a plain scalar that YAML reads as something else than text (``1e-4``, ``true``), so
            that a field that wants text can have exactly what the user wrote.
        empty: nothing was written after the colon; it says nothing, where an explicit ``null`` resets.
    """

    value: Any
    origin: str
    written: str | None = None
    empty: bool = False

    def child(self, part: str | int) -> Node | None:
        """The node one step down, or None."""
        if isinstance(self.value, dict) and isinstance(part, str):
            found = self.value.get(part)
            return found if isinstance(found, Node) else None
        if isinstance(self.value, list) and isinstance(part, int) and 0 <= part < len(self.value):
            item: Node = self.value[part]
            return item
        return None


def from_plain(value: Any, origin: str) -> Node:
    """Wrap plain data that has one origin as a whole, such as a TOML table."""
    if isinstance(value, Mapping):
        return Node({str(key): from_plain(item, origin) for key, item in value.items()}, origin)
    if isinstance(value, list | tuple):
        return Node([from_plain(item, origin) for item in value], origin)
    return Node(value, origin)


def to_plain(node: Node) -> Any:
    """The values alone."""
    if isinstance(node.value, dict):
        return {key: to_plain(item) for key, item in node.value.items()}
    if isinstance(node.value, list):
        return [to_plain(item) for item in node.value]
    return node.value


def find(node: Node, path: Path) -> Node | None:
    """The node at a path, or None."""
    current: Node | None = node
    for part in path:
        current = current.child(part) if current else None
    return current


def origin_of(node: Node, path: Path) -> str:
    """Where the value at a path was written; for one that was not, the nearest section above that was."""
    current, origin = node, node.origin
    for part in path:
        below = current.child(part)
        if below is None:
            break
        current, origin = below, below.origin
    return origin


def with_texts_changed(node: Node, keys: Sequence[str], change: Callable[[Node, Path], str], path: Path = ()) -> Node:
    """A copy in which the text under some keys is another one; a list on the way means each of its items.

    What is no text there is left for the schema.

    Args:
        change: given the text's node and its path.
        path: of ``node`` itself.
    """
    if isinstance(node.value, list):
        items = [with_texts_changed(item, keys, change, (*path, at)) for at, item in enumerate(node.value)]
        return replace(node, value=items)
    if keys:
        below = node.child(keys[0])
        if below is None:
            return node
        return replace(node, value={**node.value, keys[0]: with_texts_changed(below, keys[1:], change, (*path, keys[0]))})
    return replace(node, value=change(node, path)) if isinstance(node.value, str) and "\0" not in node.value else node


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """All nodes with their paths, parents first."""
    yield path, node
    items: Iterator[tuple[str | int, Node]] = iter(())
    if isinstance(node.value, dict):
        items = iter(node.value.items())
    elif isinstance(node.value, list):
        items = iter(enumerate(node.value))
    for part, item in items:
        yield from walk(item, (*path, part))
