"""The shipped recipes at a glance (service over the shipped files)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hpctrain import resources
from hpctrain.recipe import load
from hpctrain.recipe.model_size import shape_of
from hpctrain.recipe.overlay import merge_layers
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.validate import validate


@dataclass(frozen=True, slots=True)
class Entry:
    """One shipped recipe. ``parameters`` is None where they are not in the recipe itself."""

    name: str
    method: str
    parameters: int | None
    nodes: int
    gpus_per_node: int
    description: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``-o json``."""
        return asdict(self)


def catalogue(recipes: Mapping[str, Path] | None = None) -> list[Entry]:
    """One entry per shipped recipe, read without checking files or sizes.

    Raises:
        RecipeError: a shipped recipe is broken.
    """
    found = recipes if recipes is not None else resources.shipped_recipes()
    return [_entry(name, _recipe(path)) for name, path in found.items()]


def _recipe(path: Path) -> Recipe:
    return validate(merge_layers(load.load_chain(load.read(path, str(path)))), str(path))


def _entry(name: str, recipe: Recipe) -> Entry:
    shape = shape_of(recipe.model.config) if recipe.model and recipe.model.config else None
    parameters = None if shape is None or isinstance(shape, str) else shape.parameters
    wanted = recipe.resources
    return Entry(name, recipe.method or "command", parameters, wanted.nodes, wanted.gpus_per_node, recipe.description)
