"""The local files that a submission needs, found from here (adapter over the file system).

They are laid out on the other machine as they lie here, under one directory: ``/home/me/p/recipe.yaml`` becomes
``TREE/home/me/p/recipe.yaml``, and the command runs in what the current directory becomes. So every relative path of a
recipe means there what it means here, the recipe travels as it was written, and messages name the lines that were typed.
An absolute path that exists here is replaced, by a ``--set`` of its own, with a relative one; one that does not is taken for
a path on the cluster, as is everything after ``cluster:``.
"""

from __future__ import annotations

import glob
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpctrain.errors import NotFoundError, RecipeError
from hpctrain.recipe import load
from hpctrain.recipe.files import data_files
from hpctrain.recipe.node import Node, find
from hpctrain.recipe.overlay import merge_layers, parse_sets
from hpctrain.recipe.parse import parse_document
from hpctrain.recipe.problem import dotted

MOST_FILES = 5000
_SKIPPED = ("__pycache__", "node_modules")
_TYPED = ("/", "~")


@dataclass(frozen=True, slots=True)
class Item:
    """One file to send.

    Attributes:
        path: where it lies here, absolute and without ``..``.
        is_recipe: it is read before the job starts, so that a dry run needs what is in it.
    """

    path: Path
    size_bytes: int
    executable: bool
    is_recipe: bool = False


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a submission sends.

    Attributes:
        items: the files, each once, in order of their paths.
        folders: directories that must be there though no file of theirs may be.
        folder: the current directory here, absolute.
        argument: the recipe as the other machine is to be asked for it.
        sets: further ``--set`` arguments, to be put after those that were typed.
        notes: sentences about choices that the user did not make.
    """

    items: tuple[Item, ...]
    folders: tuple[Path, ...]
    folder: Path
    argument: str
    sets: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(item.size_bytes for item in self.items)


def gather(argument: str, sets: Sequence[str], folder: Path) -> Parcel:
    """Find what ``submit ARGUMENT --set ...`` in a directory needs of this machine's files.

    Args:
        argument: a recipe file, the name of a shipped recipe (which is the other machine's), or ``cluster:/path``.
        folder: the current directory, absolute.

    Raises:
        RecipeError: a recipe is broken, or a relative path leads nowhere, or what must be sent is far too much.
        NotFoundError: no such recipe.
    """
    chosen = parse_sets(sets)
    search = _Search(folder)
    layers: list[tuple[Node, Path]] = []
    base = folder
    if "\0" in argument:
        raise NotFoundError("no such recipe: a name cannot hold a null character")
    if argument.startswith(f"{load.ON_CLUSTER}/"):
        argument = argument.removeprefix(load.ON_CLUSTER)
    elif _is_file(argument, folder):
        source = load.read(load.locate(argument, folder), argument)
        layers = search.chain(source)
        base = layers[-1][1]
        argument = search.typed(argument, source.path)
    local = bool(layers)
    layers += [(node, folder) for node in chosen]
    written = merge_layers(node for node, _ in layers)
    placed = merge_layers(load.anchor(node, where) for node, where in layers)
    sets_more = tuple(search.places(written, placed))
    if local:
        search.program(written, placed, base)
    items = tuple(search.items[key] for key in sorted(search.items))
    folders = tuple(sorted({folder, *search.folders}))
    return Parcel(items, folders, folder, argument, sets_more, tuple(search.notes))


@dataclass
class _Search:
    """Collects files on the way through a recipe."""

    folder: Path
    items: dict[Path, Item] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def chain(self, source: load.Source) -> list[tuple[Node, Path]]:
        """The layers of a recipe file and of the parents that lie here, weakest first, each with its directory."""
        layers: list[tuple[Node, Path]] = []
        while True:
            path = _plain(source.path)
            self.add(path, is_recipe=True)
            node = parse_document(source.text, source.label)
            parent = node.value.pop("extends", None)
            layers.append((node, path.parent))
            text = parent.value if parent is not None and isinstance(parent.value, str) else ""
            if not text or text.startswith(f"{load.ON_CLUSTER}/") or len(layers) > load.MAX_PARENTS:
                return layers[::-1]
            if not _is_file(text, path.parent):
                return layers[::-1]  # a shipped recipe; or the other machine has it, or says what is wrong
            found = load.locate(text, path.parent)
            if _plain(found) in self.items:
                return layers[::-1]
            if parent is not None and text.startswith(_TYPED):
                raise RecipeError(
                    f"extends: {text} is an absolute path on this machine, which the cluster does not have",
                    where=parent.origin, hint="write it relative to the recipe, or cluster:/path for a file on the cluster",
                )
            source = load.read(found, str(found))

    def typed(self, argument: str, path: Path) -> str:
        """The recipe argument, as it is to be typed in what the current directory becomes.

        Of ``a/../r.yaml`` nothing says that there will be an ``a``.
        """
        parts = Path(argument).parts
        plain = argument.startswith(_TYPED) or ".." in itertools.dropwhile(lambda part: part == "..", parts)
        return self._relative(path) if plain else argument

    def places(self, written: Node, placed: Node) -> Iterator[str]:
        """Add what the path keys of a recipe name; the ``--set`` arguments that replace absolute local paths."""
        for key in load.PATHS:
            before, after = find(written, key), find(placed, key)
            if before is None or after is None:
                continue
            many = isinstance(before.value, list)
            pairs = list(zip(before.value, after.value, strict=True)) if many else [(before, after)]
            texts: list[object] = []
            for number, (raw, absolute) in enumerate(pairs):
                if not isinstance(raw.value, str) or not isinstance(absolute.value, str):
                    texts.append(raw.value)
                    continue
                name = dotted((*key, number)) if many else dotted(key)
                texts.append(self._place(key, name, raw, absolute.value))
            if texts != [raw.value for raw, _ in pairs]:
                value = texts if many else texts[0]
                yield f"{dotted(key)}={json.dumps(value, ensure_ascii=False)}"

    def _place(self, key: tuple[str, ...], name: str, raw: Node, absolute: str) -> str:
        """Add the files that one value means; the value for the other machine."""
        text: str = raw.value
        if text.startswith(f"{load.ON_CLUSTER}/") or not absolute.startswith("/"):
            return text
        if not os.path.lexists(absolute) and not (glob.has_magic(absolute) and data_files(absolute)):
            if text.startswith(_TYPED):
                self.notes.append(f"{name}: there is no {text} on this machine, so it is taken for a path on the cluster")
                return text
            raise RecipeError(
                f"{name}: there is no {absolute} on this machine", where=raw.origin,
                hint=f"for a file or directory on the cluster write {load.ON_CLUSTER}/its/absolute/path",
            )
        if key == ("data", "paths"):
            self._add_all(data_files(absolute) or [Path(absolute)])
        elif Path(absolute).is_dir():
            self._add_all(_tree(Path(absolute)))
        else:
            self.add(Path(absolute))
        if Path(absolute).is_dir():
            self.folders.add(Path(absolute))
        return self._relative(Path(absolute)) if text.startswith(_TYPED) else text

    def program(self, written: Node, placed: Node, base: Path) -> None:
        """Add what a ``command`` needs: the files and directories among its words, and the Python beside them.

        With a ``workdir`` of this machine all of that is sent already.
        """
        command, workdir = find(written, ("command",)), find(placed, ("workdir",))
        if command is None or not isinstance(command.value, list) or (workdir is not None and workdir.value):
            return
        for word in (word.value for word in command.value):
            for text in _parts(word):
                path = _plain(base / text)
                if path.is_dir():
                    self._add_all(_tree(path))
                elif path.is_file():
                    self.add(path)
        # Beside a recipe in the home directory lies everything: there only the directory's own modules are taken.
        wide = base in (Path.home(), Path("/"))
        self._add_all(path for path in (base.glob("*.py") if wide else _tree(base)) if path.suffix == ".py")

    def add(self, path: Path, *, is_recipe: bool = False) -> None:
        """Take one file.

        Raises:
            NotFoundError: it cannot be read.
            RecipeError: there are too many.
        """
        path = _plain(path)
        if path in self.items and not is_recipe:
            return
        try:
            state = path.stat()
            if not os.access(path, os.R_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise NotFoundError(f"cannot be sent: {error.strerror}", where=str(path)) from None
        if len(self.items) >= MOST_FILES:
            raise RecipeError(
                f"more than {MOST_FILES} files belong to this recipe, the last of them {path}",
                hint="keep a recipe in a directory of its own project, set workdir to that, or put the files on the "
                     f"cluster's file system and write {load.ON_CLUSTER}/path/there",
            )
        config = path.name == "config.json" and state.st_size < 2**20
        self.items[path] = Item(path, state.st_size, bool(state.st_mode & 0o100), is_recipe or config)

    def _add_all(self, paths: Iterable[Path]) -> None:
        for path in paths:
            if path.is_file():
                self.add(path)

    def _relative(self, path: Path) -> str:
        text = os.path.relpath(_plain(path), self.folder)
        return text if text.startswith(".") else f"./{text}"


def refuse_too_much(parcel: Parcel, limit_bytes: int) -> None:
    """Raise if a parcel is larger than may be sent.

    Raises:
        RecipeError: names the largest files and what to do.
    """
    if parcel.size_bytes <= limit_bytes:
        return
    largest = sorted(parcel.items, key=lambda item: item.size_bytes, reverse=True)[:3]
    names = ", ".join(f"{item.path} ({size(item.size_bytes)})" for item in largest)
    raise RecipeError(
        f"the files of this recipe are {size(parcel.size_bytes)}, and at most {size(limit_bytes)} are sent: {names}",
        hint="copy large files to the cluster's file system once, with rsync or scp, and write cluster:/path/there in the "
             "recipe; send_limit in [remote.NAME] of config.toml raises the limit",
    )


def size(count_bytes: int) -> str:
    """A number of bytes as people write it."""
    value, unit = float(count_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _plain(path: Path) -> Path:
    """Absolute and without ``..``, as recipes' paths are made absolute: by name, not through links."""
    return Path(os.path.normpath(path.absolute()))


def _is_file(text: str, folder: Path) -> bool:
    """The text means a file here, and not the name of a shipped recipe, as :func:`hpctrain.recipe.load.locate` decides."""
    path = folder / load.with_home(text)
    return path.exists() and not path.is_dir()


def _tree(folder: Path) -> Iterator[Path]:
    """Files below a directory: no hidden ones, no caches, no virtual environments, nothing behind links to directories."""
    for where, folders, names in os.walk(folder):
        if "pyvenv.cfg" in names:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        yield from (Path(where) / name for name in sorted(names) if not name.startswith("."))


def _parts(word: object) -> Iterator[str]:
    """What in a word of a command may name a file beside the recipe: the word, or what follows ``=`` in it."""
    if not isinstance(word, str):
        return
    for text in (word, word.partition("=")[2]):
        if text and not text.startswith(_TYPED) and "\0" not in text and os.path.normpath(text) not in (".", ".."):
            yield text
