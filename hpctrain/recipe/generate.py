"""All recipes of the catalogue, from its two tables (service): one per method, variant, model and kind of node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hpctrain.errors import HpctrainError
from hpctrain.recipe.compose import MARK, Composed, Wish, compose, laid_over
from hpctrain.recipe.layout import explain
from hpctrain.recipe.model_size import Shape, shape_of
from hpctrain.recipe.tables import Gpus, Method, Model, Tables, Variant

HEADING = f"""{MARK} from recipes/families.toml and recipes/methods.toml;
# edit those, or a copy: hpctrain init my.yaml --from NAME"""


def generate(tables: Tables) -> dict[str, Composed]:
    """Every recipe by its name, such as ``sft/qwen3_8b_lora_1node_8xh100``.

    Raises:
        HpctrainError: one fits nowhere, or two have the same name.
    """
    found: dict[str, Composed] = {}
    for method in tables.methods.values():
        for variant in method.variants:
            for model in (tables.models[name] for name in variant.models):
                for gpus in (tables.gpus[name] for name in variant.gpus):
                    recipe = _one(tables, method, variant, model, gpus)
                    name = f"{method.name}/{recipe.name}"
                    if name in found:
                        raise HpctrainError(f"two recipes of the tables are called {name}")
                    found[name] = recipe
    return found


def wish_for(method: Method, variant: Variant, model: Model, gpus: Gpus, nodes: int | None = None) -> Wish:
    """What the tables say of one recipe."""
    adapter = dict(variant.adapter)
    comments = dict(method.comments)
    if adapter and model.target_modules:
        adapter["target_modules"] = list(model.target_modules)
    shape = shape_of(model.config)
    if adapter and isinstance(shape, Shape) and shape.routed:
        comments["adapter"] = "on attention; the experts stay as they are"
    return Wish(
        model_path=model.base if method.name == "cpt" and model.base else model.hub, title=model.title, config=model.config,
        method=method.name, values=laid_over(method.values, variant.changes), comments=comments, adapter=adapter,
        per_node=gpus.per_node, memory_mib=gpus.memory_mib, gpus=gpus.title, nodes=nodes, wrap=model.wrap,
    )


def other_configs(values: Mapping[str, Any], tables: Tables) -> dict[str, Mapping[str, Any]]:
    """Architectures of the further models that a recipe names and the table knows, by path."""
    path = str((values.get("teacher") or {}).get("path") or "")
    found = tables.model_of(path)
    return {path: found.config} if found else {}


def _one(tables: Tables, method: Method, variant: Variant, model: Model, gpus: Gpus) -> Composed:
    wish = wish_for(method, variant, model, gpus)
    name = f"{model.name}_{variant.name}_{{nodes}}node{{s}}_{gpus.name}"
    heading = "\n".join(_heading(method, model, name))
    found = compose(wish, name, heading, other_configs(wish.values, tables))
    if isinstance(found, Composed):
        return found
    raise HpctrainError("\n".join([f"{model.name} {method.name} {variant.name} fits nowhere:",
                                   *explain(found, gpus.memory_mib * 2**20)]))


def _heading(method: Method, model: Model, name: str) -> Iterator[str]:
    yield f"# {model.title} {method.about}."
    yield "#"
    yield from HEADING.replace("NAME", f"{method.name}/{name}").split("\n")
