"""Layers of values over one another, each value remembering who set it (pure).

From weak to strong: built-in default, site ``[recipe]`` tables, ``extends:`` parents, the recipe, ``--set``.
Mappings merge, everything else replaces. ``null`` resets a key to its built-in default; a key with nothing after the
colon says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import reduce

from hpctrain.errors import RecipeError
from hpctrain.recipe.node import Node, Path, find
from hpctrain.recipe.parse import parse_value
from hpctrain.recipe.problem import dotted
from hpctrain.recipe.suggest import is_field, nearest, section_at, unknown_key

RIVALS: tuple[tuple[Path, ...], ...] = (
    (("training", "steps"), ("training", "tokens"), ("training", "epochs")),
    (("model", "config"), ("model", "path")),
    (("checkpoint", "every_steps"), ("checkpoint", "every")),
    (("checkpoint", "local", "every_steps"), ("checkpoint", "local", "every")),
    (("checkpoint", "object", "every_steps"), ("checkpoint", "object", "every")),
)
"""Keys of which one layer's choice replaces what weaker layers chose: ``--set training.steps=5`` must work on a
recipe that says ``tokens``. Two of them in one layer stay, and are refused by :mod:`hpctrain.recipe.check`."""

_SET = re.compile(r"^\s*([^=\s]+)\s*=(.*)$", re.DOTALL)


def refuse_rival_sets(sets: Sequence[Node]) -> None:
    """All ``--set`` of a command line are one choice: two keys of which only one can hold contradict each other.

    Raises:
        RecipeError: two of :data:`RIVALS` are set.
    """
    chosen = reduce(_over, sets, Node({}, "default"))
    for rivals in RIVALS:
        names = [dotted(path) for path in rivals if _is_set(chosen, path)]
        if len(names) > 1:
            message = f"give only one of {' and '.join(names)}: each --set of them would replace the other"
            raise RecipeError(message, where=f"--set {names[-1]}", hint="leave one of them out")


def merge_layers(layers: Iterable[Node]) -> Node:
    """Lay mappings over one another, weakest first, and drop what was reset to its default."""
    merged = Node({}, "default")
    for layer in layers:
        for rivals in RIVALS:
            if any(_is_set(layer, path) for path in rivals):
                for path in rivals:
                    merged = merged if find(layer, path) else _without(merged, path)
        merged = _over(merged, layer)
    return _drop_resets(merged, ())


def parse_set(text: str) -> Node:
    """One ``--set a.b=value`` as a layer; see :func:`hpctrain.recipe.parse.parse_value` for the value.

    Raises:
        RecipeError: no ``=``, a key that the schema does not have, a broken value.
    """
    match = _SET.match(text)
    if not match:
        raise RecipeError(f"--set {text!r}: expected KEY=VALUE, such as training.steps=100", hint=_SET_HINT)
    key, value = match.groups()
    origin = f"--set {key}"
    path = tuple(key.split("."))
    _refuse_unknown(path, origin)
    node = parse_value(value, origin)
    for part in reversed(path):
        node = Node({part: node}, origin)
    return node


def parse_sets(texts: Sequence[str]) -> list[Node]:
    """:func:`parse_set` of each, in order; a later one wins."""
    return [parse_set(text) for text in texts]


_SET_HINT = "'hpctrain validate FILE --resolved' prints every key; lists are written --set 'data.paths=[a.txt, b.txt]'"


def _refuse_unknown(path: tuple[str, ...], origin: str) -> None:
    if not all(path):
        raise RecipeError("a key has an empty part", where=origin, hint=_SET_HINT)
    for length in range(1, len(path) + 1):
        here = path[:length]
        section = section_at(here[:-1])
        if section is None:
            if here[:-1] in (("env",), ("model", "config")) or here[:2] == ("model", "config"):
                return  # free-form keys
            raise RecipeError(f"{'.'.join(here[:-1])} has no keys below it", where=origin, hint=_SET_HINT)
        if not is_field(here):
            near = nearest(here[-1], section.model_fields)
            better = ".".join((*here[:-1], near, *path[length:])) if near else ""
            message = f"unknown key; did you mean {better!r}?" if better else unknown_key(here)
            raise RecipeError(message, where=origin, hint=_SET_HINT)


def _is_set(node: Node, path: Path) -> bool:
    found = find(node, path)
    return found is not None and found.value is not None


def _over(low: Node | None, high: Node) -> Node:
    if high.empty and low is not None:
        return low
    if low is not None and isinstance(low.value, dict) and isinstance(high.value, dict):
        children = dict(low.value)
        for key, node in high.value.items():
            children[key] = _over(children.get(key), node)
        return Node(children, high.origin)
    return high


def _without(node: Node, path: Path) -> Node:
    below = node.child(path[0])
    if below is None or not isinstance(node.value, dict):
        return node
    children = {key: item for key, item in node.value.items() if key != path[0]}
    if len(path) > 1:
        children[str(path[0])] = _without(below, path[1:])
    return Node(children, node.origin)


def _drop_resets(node: Node, path: Path) -> Node:
    """Take out nulls at keys of the schema.

    Others stay: null is a value in ``model.config``, and a misspelt key is still reported.
    """
    if not isinstance(node.value, dict):
        return node
    children = {}
    for key, item in node.value.items():
        here = (*path, key)
        if item.value is None and (is_field(here) or path == ("env",)):
            continue
        children[key] = _drop_resets(item, here)
    return Node(children, node.origin)
