"""A first recipe for a user to edit (adapter over the file system)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hpctrain import resources
from hpctrain.errors import NotFoundError, RecipeError, StorageError
from hpctrain.files import create_atomic
from hpctrain.recipe.parse import parse_document
from hpctrain.recipe.suggest import nearest

_NAME = re.compile(r"^name:.*$", re.MULTILINE)
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class First:
    """Files that make a first recipe.

    Attributes:
        path: where the recipe goes.
        text: the recipe.
        script: (target, text) of the program that a ``command`` recipe runs, None for others.
    """

    path: Path
    text: str
    script: tuple[Path, str] | None = None

    @property
    def written(self) -> list[Path]:
        """Files that :func:`write_first` makes."""
        return [self.path, *([self.script[0]] if self.script else [])]


def first_recipe(base: str, file: str) -> First:
    """A shipped recipe under a new name, with the script it runs.

    Raises:
        NotFoundError: no such shipped recipe.
        RecipeError: one of the files exists already.
    """
    known = resources.shipped_recipes()
    if base not in known:
        near = nearest(base, known)
        raise NotFoundError(f"no shipped recipe is called {base!r}", hint=(
            f"did you mean '{near}'? " if near else "") + "'hpctrain recipes list' shows them all")
    path, source = Path(file), known[base]
    text = source.read_text(encoding="utf-8")
    name = _UNNAMEABLE.sub("-", path.stem).strip("-._")[:80]
    text = _NAME.sub(f"name: {name or 'my-run'}", text, count=1)
    first = First(path, text, _script(source, text, path))
    for target in first.written:
        if target.exists() or target.is_symlink():
            raise RecipeError("exists already, and is not overwritten", where=str(target), hint="choose another name")
    return first


def write_first(first: First) -> None:
    """Write the files, each whole or not at all.

    Raises:
        RecipeError: one of them appeared in the meantime.
        StorageError: there is no such directory, or it cannot be written.
    """
    for target, text in ([first.script] if first.script else []) + [(first.path, first.text)]:
        if not first.path.parent.is_dir():
            raise StorageError("no such directory", where=str(first.path.parent), hint="make it first, with mkdir -p")
        try:
            target.parent.mkdir(exist_ok=True)
            create_atomic(target, text, mode=0o644)
        except FileExistsError:
            raise RecipeError("exists already, and is not overwritten", where=str(target)) from None
        except OSError as error:
            raise StorageError(f"cannot write: {error.strerror}", where=str(target)) from None


def _script(source: Path, text: str, path: Path) -> tuple[Path, str] | None:
    command = parse_document(text, str(source)).child("command")
    first = command.child(0) if command else None
    script = source.parent / str(first.value) if first else None
    if script is None or script.suffix != ".py" or not script.is_file():
        return None
    return path.parent / str(first.value if first else ""), script.read_text(encoding="utf-8")
