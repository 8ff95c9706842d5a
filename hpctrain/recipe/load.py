"""Recipe files to values: finds, reads, follows ``extends:``, makes local paths absolute (adapter over the file system)."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpctrain import resources
from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.recipe.node import Node, with_texts_changed
from hpctrain.recipe.parse import MAX_BYTES, parse_document
from hpctrain.recipe.problem import shown

MAX_PARENTS = 20
ON_CLUSTER = "cluster:"
"""Before an absolute path: it is the cluster's, also for those who submit from somewhere else."""
_Change = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Source:
    """A recipe file.

    Attributes:
        path: absolute path.
        label: how messages name it: as the user wrote it.
        text: what it holds.
    """

    path: Path
    label: str
    text: str


def locate(argument: str, base_dir: Path | None = None) -> Path:
    """The file that an argument or ``extends:`` means: a path first, else the name of a shipped recipe.

    Args:
        base_dir: what a relative path is relative to; None for the current directory.

    Raises:
        NotFoundError: neither; names what comes near.
        RecipeError: it is a directory.
    """
    if "\0" in argument or not argument:
        raise NotFoundError(f"no such recipe: {shown(argument)}")
    path = (base_dir or Path()) / with_home(argument)
    if path.exists() and not path.is_dir():
        return path
    known = resources.shipped_recipes()
    name = argument.removesuffix(".yaml")
    if name in known:
        return known[name]
    if path.is_dir():
        raise RecipeError("is a directory, not a recipe", where=argument, hint=_inside(path))
    message = f"no such recipe: {shown(argument)}, neither a file nor a shipped recipe"
    raise NotFoundError(message, hint=_near(path, name, known))


def read(path: Path, label: str) -> Source:
    """Read a recipe file.

    Raises:
        RecipeError: not readable, not UTF-8, or too large to be a recipe.
        NotFoundError: it went away.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError("no such file", where=label) from None
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=label) from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"larger than {MAX_BYTES // 2**20} MiB; this is no recipe", where=label)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"not UTF-8 text: byte 0x{data[error.start]:02x}", where=f"{label}:{line}") from None
    return Source(path.absolute(), label, text)


def load_chain(source: Source) -> list[Node]:
    """The recipe and the parents it extends, weakest (the oldest ancestor) first.

    Raises:
        RecipeError: a file is broken, or the chain of ``extends:`` is a circle.
        NotFoundError: a parent does not exist.
    """
    chain: list[Node] = []
    seen: list[Path] = []
    current = source
    while True:
        seen.append(_identity(current.path))
        node = parse_document(current.text, current.label)
        parent = node.value.pop("extends", None)
        chain.append(anchor(node, current.path.parent))
        if parent is None or parent.value is None:
            return chain[::-1]
        current = _parent(current, parent)
        if _identity(current.path) in seen:
            names = " -> ".join([*(path.name for path in seen), current.path.name])
            raise RecipeError(f"extends: goes round in a circle: {names}", where=parent.origin)
        if len(seen) > MAX_PARENTS:
            raise RecipeError(f"extends: more than {MAX_PARENTS} parents", where=parent.origin)


def anchor(node: Node, base_dir: Path) -> Node:
    """Make the local paths of a layer absolute, so that layers from different directories can be merged.

    ``data.paths``, ``workdir``, ``chat.template`` and container files are always paths; ``model.path``,
    ``tokenizer.path``, ``teacher.path`` and ``data.name`` may be hub ids and are paths where they look like one or exist.
    """
    for path, absolute in PATHS.items():
        node = with_texts_changed(node, path, _to(absolute(base_dir)))
    return node


def _to(change: _Change) -> Callable[[Node, object], str]:
    return lambda node, _: change(node.value)


def local_model_config(model_path: str) -> Path | None:
    """The ``config.json`` of a local model directory or of a hub id in this user's cache; None if there is none."""
    direct = Path(model_path) / "config.json"
    if Path(model_path).is_absolute():
        return direct if direct.is_file() else None
    cache = os.environ.get("HF_HUB_CACHE") or str(Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub")
    folder = Path(cache).expanduser() / f"models--{model_path.replace('/', '--')}" / "snapshots"
    found = sorted(folder.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return found[-1] if found else None


def _parent(child: Source, parent: Node) -> Source:
    if not isinstance(parent.value, str):
        raise RecipeError(f"extends: expected one path or name, got {shown(parent.value)}", where=parent.origin)
    try:
        path = locate(parent.value, child.path.parent)
    except (NotFoundError, RecipeError) as error:
        raise type(error)(f"extends: {error.message}", where=parent.origin, hint=error.advice) from None
    beside = os.path.normpath(Path(child.label).parent / parent.value)
    return read(path, beside if Path(beside).exists() else str(path))


def _identity(path: Path) -> Path:
    return path.resolve()


def _absolute(base_dir: Path) -> _Change:
    return lambda text: os.path.normpath(base_dir / with_home(text)) if text else text


def _absolute_if_local(base_dir: Path) -> _Change:
    def change(text: str) -> str:
        local = text.startswith(("/", "./", "../", "~", f"{ON_CLUSTER}/")) or text in (".", "..")
        return _absolute(base_dir)(text) if local or (text and (base_dir / text).exists()) else text

    return change


def _absolute_image(base_dir: Path) -> _Change:
    def change(text: str) -> str:
        file = text.startswith(("/", "./", "../", "~", f"{ON_CLUSTER}/")) or text.endswith((".sif", ".sqsh"))
        return _absolute(base_dir)(text) if file else text

    return change


def _absolute_function(base_dir: Path) -> _Change:
    """``file.py:function`` names a file, ``module:function`` does not."""
    return lambda text: _absolute(base_dir)(text) if text.rpartition(":")[0].endswith(".py") else text


def _absolute_task(base_dir: Path) -> _Change:
    """A task of lm-evaluation-harness is a name, or the file of one."""
    return lambda text: _absolute(base_dir)(text) if text.endswith((".yaml", ".yml")) else text


PATHS: Mapping[tuple[str, ...], Callable[[Path], _Change]] = {
    ("workdir",): _absolute, ("data", "paths"): _absolute, ("resources", "container"): _absolute_image,
    ("model", "path"): _absolute_if_local, ("tokenizer", "path"): _absolute_if_local,
    ("data", "name"): _absolute_if_local, ("rewards", "path"): _absolute_if_local,
    ("rewards", "function"): _absolute_function, ("teacher", "path"): _absolute_if_local,
    ("chat", "template"): _absolute,
    ("evaluate", "suites", "paths"): _absolute, ("evaluate", "suites", "function"): _absolute_function,
    ("evaluate", "suites", "tasks"): _absolute_task,
}
"""Where a recipe may name local files, and how each becomes absolute."""


def _near(path: Path, name: str, known: Mapping[str, Path]) -> str:
    try:
        beside = {item.name: str(item) for item in path.parent.iterdir() if item.suffix in (".yaml", ".yml")}
    except OSError:
        beside = {}
    near = difflib.get_close_matches(path.name, beside, n=1)
    if near:
        return f"did you mean {beside[near[0]]}?"
    by_tail = {key.rsplit("/", 1)[-1]: key for key in known}
    match = difflib.get_close_matches(name, known, n=1)
    match = match or difflib.get_close_matches(name.rsplit("/", 1)[-1], by_tail, n=1, cutoff=0.5)
    suggestion = f"did you mean the shipped recipe '{by_tail.get(match[0], match[0])}'? " if match else ""
    return f"{suggestion}'hpctrain recipes list' shows the shipped ones, 'hpctrain init' writes a first one"


def _inside(path: Path) -> str:
    files = sorted(item.name for item in path.glob("*.yaml"))
    return f"give one of its files: {', '.join(files[:5])}" if files else "give the path of a .yaml file"


def with_home(text: str) -> Path:
    """A path with ``~`` filled in and without :data:`ON_CLUSTER`; ``~name`` of nobody is taken as it is written."""
    if text.startswith(f"{ON_CLUSTER}/"):
        return Path(text.removeprefix(ON_CLUSTER))
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
