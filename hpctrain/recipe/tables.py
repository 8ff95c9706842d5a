"""The catalogue's two tables, of models and of methods (adapter over the shipped files)."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpctrain.errors import HpctrainError
from hpctrain.resources import RECIPES, shipped_file

FAMILIES_FILE, METHODS_FILE = "families.toml", "methods.toml"


@dataclass(frozen=True, slots=True)
class Model:
    """A published model that the catalogue knows without downloading it.

    Attributes:
        name: as in the names of recipes: ``qwen3_8b``.
        family: what ``--family`` chooses by: ``qwen3``.
        hub, base: hub ids of the tuned model and of the one before tuning; base is "" where none was published.
        parameters: as published, for the parts that a text recipe loads.
        config: the numbers of its ``config.json`` that decide its size.
        wrap: type the published weights are stored in, where it is not one that can be trained.
        target_modules: layers that get an adapter; empty for all linear layers.
    """

    name: str
    family: str
    title: str
    hub: str
    parameters: int
    config: Mapping[str, Any]
    base: str = ""
    wrap: str = ""
    target_modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of a method: with an adapter or without, on some hardware, for some models.

    Attributes:
        name: as in the names of recipes: ``lora``.
        adapter: the recipe's adapter section; empty for training all weights.
        changes: what differs from the method's own values, in a recipe's sections.
        models: the models it is generated for.
        gpus: kinds of node, as in the table ``gpus``; a recipe for each.
    """

    name: str
    adapter: Mapping[str, Any]
    changes: Mapping[str, Any]
    models: tuple[str, ...]
    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Method:
    """A method with the values that all of its recipes share.

    Attributes:
        about: one sentence for people.
        values: sections of a recipe.
        comments: what a recipe says beside a value: dotted key to text.
    """

    name: str
    about: str
    values: Mapping[str, Any]
    variants: tuple[Variant, ...]
    comments: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gpus:
    """A kind of node: how many GPUs with how much memory."""

    name: str
    title: str
    per_node: int
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Tables:
    """Both tables, by name."""

    models: Mapping[str, Model]
    methods: Mapping[str, Method]
    gpus: Mapping[str, Gpus]

    def model_of(self, path: str) -> Model | None:
        """The model of a hub id, or of its base; None for one that is not in the table."""
        return next((model for model in self.models.values() if path and path in (model.hub, model.base)), None)


@functools.cache
def tables() -> Tables:
    """Both tables as shipped.

    Raises:
        HpctrainError: this installation lacks them.
    """
    return read_tables(shipped_file(RECIPES, FAMILIES_FILE), shipped_file(RECIPES, METHODS_FILE))


def read_tables(families: Path, methods: Path) -> Tables:
    """Both tables from files.

    Raises:
        HpctrainError: one cannot be read, or names a model or a node of which nothing is said.
    """
    models = {item["name"]: _model(item) for item in _toml(families)["model"]}
    content = _toml(methods)
    gpus = {name: Gpus(name, **values) for name, values in content.pop("gpus").items()}
    found = {name: _method(name, values) for name, values in content.items()}
    for method in found.values():
        for variant in method.variants:
            strangers = [*(set(variant.models) - set(models)), *(set(variant.gpus) - set(gpus))]
            if strangers:
                names = ", ".join(sorted(strangers))
                raise HpctrainError(f"{method.name} {variant.name} names what is in no table: {names}", where=str(methods))
    return Tables(models, found, gpus)


def known_model(path: str) -> Model | None:
    """The model of a hub id, or of its base; None for one that is not in the table."""
    return tables().model_of(path)


def _model(item: Mapping[str, Any]) -> Model:
    return Model(**{**item, "target_modules": tuple(item.get("target_modules", ()))})


def _method(name: str, values: Mapping[str, Any]) -> Method:
    variants = tuple(
        Variant(item["name"], item.get("adapter", {}), item.get("changes", {}), tuple(item["models"]), tuple(item["gpus"]))
        for item in values["variant"])
    return Method(name, values["about"], values["values"], variants, values.get("comments", {}))


def _toml(path: Path) -> dict[str, Any]:
    parser = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        values: dict[str, Any] = parser.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HpctrainError(f"cannot be read: {error}", where=str(path), hint="install hpctrain again") from None
    return values
