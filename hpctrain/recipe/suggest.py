"""The nearest thing that would have been right (pure)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel

from hpctrain.recipe.node import Path
from hpctrain.recipe.schema import Recipe


def section_at(path: Path) -> type[BaseModel] | None:
    """The schema class of the section, or item of a list, at a path; None where there is none (a leaf, free-form keys)."""
    current: type[BaseModel] | None = Recipe
    for part in path:
        if isinstance(part, int):
            continue  # items of a list are what the list is made of
        if current is None or part not in current.model_fields:
            return None
        current = _section(current.model_fields[part].annotation)
    return current


def is_field(path: Path) -> bool:
    """The schema has this key itself; keys of free-form mappings (``model.config``) are not fields."""
    section = section_at(path[:-1]) if path else None
    return section is not None and path[-1] in section.model_fields


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant, or None."""
    by_lower = {item.lower(): item for item in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def unknown_key(path: Path) -> str:
    """Message for a key that the schema does not have: the nearest key here, else the section it belongs to."""
    word = str(path[-1])
    section = section_at(path[:-1])
    here = list(section.model_fields) if section else []
    if len(path) == 1:
        here.append("extends")
    elsewhere = [".".join(found) for found in _all_fields() if found[-1] == word]
    if elsewhere:
        return f"unknown key here; {word!r} belongs under {' or '.join(repr(item) for item in elsewhere)}"
    near = nearest(word, here)
    if near:
        return f"unknown key; did you mean {near!r}?"
    far = nearest(word, {found[-1] for found in _all_fields()})
    if far:
        places = [".".join(found) for found in _all_fields() if found[-1] == far]
        return f"unknown key; did you mean {' or '.join(repr(item) for item in places)}?"
    return f"unknown key; known here: {', '.join(here)}"


def _all_fields(section: type[BaseModel] = Recipe, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        yield (*path, name)
        below = _section(field.annotation)
        if below:
            yield from _all_fields(below, (*path, name))


def _section(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
