"""The shipped recipes at a glance (service over the shipped files)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctrain import resources
from hpctrain.errors import NotFoundError
from hpctrain.recipe import load
from hpctrain.recipe.compose import MARK
from hpctrain.recipe.model_size import shape_of
from hpctrain.recipe.overlay import merge_layers
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.suggest import nearest
from hpctrain.recipe.tables import Model, known_model, tables
from hpctrain.recipe.validate import validate

INDEX_FILE = "catalogue.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """One shipped recipe.

    Attributes:
        family: of the model, as in ``recipes/families.toml``; "" for a model that is in no table.
        adapter: kind of adapter, "" where all weights are trained.
        parameters: of the model, None where its size is not known.
        generated: made from the catalogue's tables, so that its name says everything.
    """

    name: str
    method: str
    family: str
    adapter: str
    parameters: int | None
    nodes: int
    gpus_per_node: int
    description: str
    generated: bool

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``-o json``."""
        return asdict(self)


def catalogue(recipes: Mapping[str, Path] | None = None) -> list[Entry]:
    """One entry per shipped recipe, read without checking files or sizes.

    Raises:
        RecipeError: a shipped recipe is broken.
    """
    found = recipes if recipes is not None else resources.shipped_recipes()
    known = _index() if recipes is None else {}
    return [known.get(name) or entry_of(name, path) for name, path in found.items()]


def _index() -> dict[str, Entry]:
    """What scripts/make_recipes.py wrote down of the recipes that it made: reading them all takes a second."""
    text = resources.shipped_file(resources.RECIPES, INDEX_FILE).read_text(encoding="utf-8")
    return {item["name"]: Entry(**item) for item in json.loads(text)}


def chosen(entries: Iterable[Entry], *, family: str = "", method: str = "", gpus: int | None = None) -> list[Entry]:
    """The entries that fit a wish.

    Args:
        family: family of the model, or the beginning of several: ``llama`` for llama3 and llama4.
        method: exactly this method.
        gpus: on no more than so many GPUs, over all nodes.

    Raises:
        NotFoundError: no recipe is of that family or method; names what comes near.
    """
    found = list(entries)
    for what, wanted, values in (
        ("family", family, {entry.family for entry in found if entry.family}),
        ("method", method, {entry.method for entry in found}),
    ):
        if wanted and not any(value.startswith(wanted.lower()) for value in values):
            near = nearest(wanted.lower(), values)
            raise NotFoundError(f"no shipped recipe is of {what} '{wanted}'", hint=(
                f"did you mean '{near}'? " if near else "") + f"there are: {', '.join(sorted(values))}")
    return [
        entry for entry in found
        if entry.family.startswith(family.lower()) and (not method or entry.method == method.lower())
        and (gpus is None or entry.nodes * entry.gpus_per_node <= gpus)
    ]


def entry_of(name: str, path: Path) -> Entry:
    """One recipe, read.

    Raises:
        RecipeError: it is broken.
    """
    source = load.read(path, str(path))
    recipe: Recipe = validate(merge_layers(load.load_chain(source)), str(path))
    model = _model(recipe)
    shape = shape_of(recipe.model.config) if recipe.model and recipe.model.config else None
    parameters = model.parameters if model else None if shape is None or isinstance(shape, str) else shape.parameters
    wanted = recipe.resources
    return Entry(
        name, recipe.method or "command", model.family if model else "", recipe.adapter.kind if recipe.adapter else "",
        parameters, wanted.nodes, wanted.gpus_per_node, recipe.description, is_generated(source.text),
    )


def is_generated(text: str) -> bool:
    """Whether a recipe was made from the catalogue's tables."""
    return any(line.startswith(MARK) for line in text.split("\n", 5)[:5])


def _model(recipe: Recipe) -> Model | None:
    """The table's model that a recipe names, or whose architecture it spells out."""
    if recipe.model is None:
        return None
    if recipe.model.path:
        return known_model(recipe.model.path)
    config = recipe.model.config or {}
    return next((model for model in tables().models.values() if model.config.items() <= config.items()), None)
