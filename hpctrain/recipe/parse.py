"""YAML text to values with their lines (pure; PyYAML is the parser).

Scalars follow YAML 1.2's core schema, not PyYAML's 1.1: ``1e-4`` is a number, ``on`` and ``yes`` are words,
``02:00:00`` and ``010`` are text. A field that wants text gets a plain scalar exactly as it was written.
"""

from __future__ import annotations

import math
import re
from typing import Any, NoReturn

import yaml

from hpctrain.recipe.node import Node
from hpctrain.recipe.problem import Problem, raise_problems, shown

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
"""Also bounds what aliases can expand to: a recipe is some hundred values."""
MAX_DEPTH = 40

_YAML_HINT = "'hpctrain recipes show quickstart' shows a recipe that works"
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)$")
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9_]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class _Reader(yaml.SafeLoader):
    """PyYAML's parser without types: all plain scalars arrive as text, and tags are refused."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  # PyYAML's own class attribute

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]  # untyped in PyYAML's stubs
        tag = getattr(event, "tag", None)
        if tag is not None:
            mark: Any = event.start_mark  # the stubs tell PyYAML's two kinds of mark apart
            raise yaml.MarkedYAMLError(None, None, f"YAML tags are not supported: {tag}", mark)
        return super().compose_node(parent, index)


def parse_document(text: str, source: str) -> Node:
    """Read one YAML mapping.

    Args:
        text: the whole document.
        source: name of the file for messages and origins.

    Raises:
        RecipeError: broken YAML, not one mapping, tags, duplicate keys, too large or too deep.
    """
    root = _compose(text, source)
    if root is None:
        _fail(source, "the file is empty; 'hpctrain init' writes a first recipe")
    node = _Builder(source).build(root, 0)
    if not isinstance(node.value, dict):
        _fail(node.origin, f"a recipe is a mapping of keys to values, this is {shown(node.value)}")
    return node


def parse_value(text: str, origin: str) -> Node:
    """Read the value of ``--set KEY=VALUE``: a plain scalar, a quoted one, or a ``[list]`` or ``{mapping}``.

    Raises:
        RecipeError: broken YAML.
    """
    if text[:1] not in ("[", "{", '"', "'"):
        return _plain(text, origin) if text else Node("", origin)
    root = _compose(text, origin)
    if root is None:
        return Node("", origin)
    return _Builder(origin, numbered=False).build(root, 0)


def _compose(text: str, source: str) -> yaml.Node | None:
    try:
        return yaml.compose(text, Loader=_Reader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        _fail(_at(source, mark), _explain(error, text, mark))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        _fail(f"{source}:{line}", f"the character {chr(error.character)!r} may not appear in YAML"
              if isinstance(error.character, int) else str(error.reason))
    except RecursionError:
        _fail(source, "nested too deeply to be a recipe")
    except (ValueError, OverflowError) as error:  # such as an escape beyond Unicode
        _fail(source, f"cannot be read as YAML: {error}")


class _Builder:
    """Turns PyYAML's nodes into ours; one per document, because it counts."""

    def __init__(self, source: str, *, numbered: bool = True) -> None:
        self.source, self.numbered, self.count = source, numbered, 0

    def build(self, node: yaml.Node, depth: int) -> Node:
        self.count += 1
        where = self._where(node)
        if self.count > MAX_NODES:
            _fail(where, f"more than {MAX_NODES} values; aliases that multiply are refused")
        if depth > MAX_DEPTH:
            _fail(where, f"nested more than {MAX_DEPTH} levels deep (or an alias that contains itself)")
        if isinstance(node, yaml.MappingNode):
            return Node(self._mapping(node, depth), where)
        if isinstance(node, yaml.SequenceNode):
            return Node([self.build(item, depth + 1) for item in node.value], where)
        if not isinstance(node, yaml.ScalarNode):
            _fail(where, "not a value")
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Node]:
        result: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            where = self._where(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                _fail(where, "a key must be a word, not a list or a mapping")
            key = str(key_node.value)
            if key == "<<":
                _fail(where, "merge keys (<<) are not supported; use 'extends:' for a common base")
            if key in result:
                _fail(where, f"the key {key!r} is given twice, first in line {lines[key]}")
            _refuse_control(key, where)
            value = self.build(value_node, depth + 1)
            # A section is found at its key; PyYAML's mark of the value is the line below.
            inline = isinstance(value_node, yaml.ScalarNode)
            result[key] = value if inline else Node(value.value, where)
            lines[key] = key_node.start_mark.line + 1
        return result

    def _scalar(self, node: yaml.ScalarNode, where: str) -> Node:
        text = str(node.value)
        _refuse_control(text, where)
        return Node(text, where) if node.style else _plain(text, where)

    def _where(self, node: yaml.Node) -> str:
        return _at(self.source, node.start_mark) if self.numbered else self.source


def _plain(text: str, where: str) -> Node:
    """A scalar without quotes, by YAML 1.2's core schema (with ``1_000`` as people write it)."""
    _refuse_control(text, where)
    if _NULL.match(text):
        return Node(None, where, empty=not text)
    if text in _BOOL:
        return Node(_BOOL[text], where, written=text)
    if _INT.match(text):
        if len(text) > 40:
            _fail(where, f"{shown(text)} is not a number that means anything here")
        return Node(int(text.replace("_", "")), where, written=text)
    if _FLOAT.match(text):
        number = float(text.replace("_", ""))
        if not math.isfinite(number):
            _fail(where, f"{shown(text)} is too large for a number")
        return Node(number, where, written=text)
    return Node(text, where)


def _refuse_control(text: str, where: str) -> None:
    match = _CONTROL.search(text)
    if match:
        _fail(where, f"the control character {match.group()!r} may not appear in a recipe")


def _explain(error: yaml.MarkedYAMLError, text: str, mark: yaml.Mark | None) -> str:
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return "a tab is used for indentation; YAML wants spaces"
    problem = error.problem or "cannot be parsed"
    if "tags are not supported" in problem:
        return problem.replace("tag:yaml.org,2002:", "!!")
    if "mapping values are not allowed" in problem:
        return "not valid YAML: a second ': ' in one line; put the value in quotes"
    if "but found another document" in problem:
        return "a recipe is one YAML document; there is a second one after '---'"
    return "not valid YAML: " + " ".join(part for part in (error.context, problem) if part)


def _at(source: str, mark: yaml.Mark | None) -> str:
    return f"{source}:{mark.line + 1}" if mark else source


def _fail(where: str, message: str) -> NoReturn:
    raise_problems([Problem((), message, where, _YAML_HINT)], where)
    raise AssertionError("unreachable")
