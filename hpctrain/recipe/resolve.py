"""One recipe argument, with everything laid over and under it, to one checked recipe (service)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpctrain import __version__
from hpctrain.recipe import load
from hpctrain.recipe.check import check, notes_on
from hpctrain.recipe.dump import dump
from hpctrain.recipe.facts import ClusterFacts
from hpctrain.recipe.files import missing_files
from hpctrain.recipe.memory import Estimate, check_memory, estimate
from hpctrain.recipe.node import Node, from_plain, origin_of, walk
from hpctrain.recipe.overlay import merge_layers, parse_sets, refuse_rival_sets
from hpctrain.recipe.problem import Problem, dotted, raise_problems
from hpctrain.recipe.run_models import with_run_models
from hpctrain.recipe.schema import Recipe
from hpctrain.recipe.tables import known_model
from hpctrain.recipe.validate import validate
from hpctrain.settings import Settings
from hpctrain.settings_file import load_settings


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe that passed every check.

    Attributes:
        recipe: all values, defaults included; local paths are absolute.
        origins: who set which value: dotted key (``training.steps``, ``data.paths[0]``) to ``file:line``,
            ``--set KEY`` or a settings file. Keys that are absent have the built-in default.
        source: absolute path of the recipe file.
        base_dir: the directory it lies in.
        text: the file as it was written.
        notes: sentences the user should read; not errors.
        estimate: size of the model and memory per rank, None for ``command`` or an unknown architecture.
    """

    recipe: Recipe
    origins: dict[str, str]
    source: Path
    base_dir: Path
    text: str
    notes: tuple[str, ...] = ()
    estimate: Estimate | None = None


def resolve(
    argument: str, sets: Sequence[str] = (), settings: Settings | None = None, *, facts: ClusterFacts | None = None,
) -> Resolved:
    """Load, overlay, validate and check a recipe.

    Args:
        argument: path of a recipe file, or the name of a shipped recipe; an existing file wins.
        sets: ``--set`` arguments, ``a.b=value``; relative paths in them are relative to the current directory.
        settings: site and user settings; their ``[recipe]`` tables are laid under the recipe.
        facts: the cluster, where it is known; adds the checks that need it.

    Raises:
        RecipeError: lists every problem found, each with where the value was written.
        NotFoundError: no such recipe or parent.
    """
    path = load.locate(argument)
    label = argument if load.with_home(argument) == path or path == Path(argument) else str(path)
    source = load.read(path, label)
    layers = [load.anchor(from_plain(values, origin), Path(origin).parent) for origin, values in (
        settings.recipe_layers if settings else ())]
    layers += load.load_chain(source)
    chosen = parse_sets(sets)
    refuse_rival_sets(chosen)
    layers += [load.anchor(node, Path.cwd()) for node in chosen]
    merged, named = with_run_models(merge_layers(layers), lambda: (settings or load_settings()).runs_dir)
    recipe = _with_workdir(validate(merged, label), source.path.parent)
    checked = _checked(recipe, merged, source, settings, facts)
    return dataclasses.replace(checked, notes=(*named, *checked.notes))


def dump_resolved(resolved: Resolved) -> str:
    """The resolved recipe as YAML with the origin of each value beside it; loads again to the same recipe."""
    return dump(resolved.recipe, resolved.origins, f"Resolved by hpctrain {__version__} from {resolved.source}")


def read_resolved(path: Path) -> Recipe:
    """Read ``recipe.resolved.yaml`` back, without overlays and without checking files or sizes again.

    Raises:
        RecipeError: it was edited into something that is no recipe.
        NotFoundError: it does not exist.
    """
    source = load.read(path, str(path))
    return validate(merge_layers(load.load_chain(source)), str(path))


def _checked(
    recipe: Recipe, merged: Node, source: load.Source, settings: Settings | None, facts: ClusterFacts | None,
) -> Resolved:
    config, note = _model_config(recipe)
    size = estimate(recipe, config, settings.gpu_memory_bytes if settings else {}, facts, _other_configs(recipe))
    problems = [*check(recipe, config, facts), *missing_files(recipe)]
    problems += check_memory(recipe, size) if not problems else []
    raise_problems([_placed(problem, merged, source.label) for problem in problems], source.label)
    notes = [*notes_on(recipe, facts), *((note,) if note else ()), *size.notes]
    return Resolved(
        recipe, _origins(merged), source.path, source.path.parent, source.text, tuple(notes),
        size if size.parameters is not None else None,
    )


def _with_workdir(recipe: Recipe, base_dir: Path) -> Recipe:
    return recipe if recipe.workdir else recipe.model_copy(update={"workdir": str(base_dir)})


def _model_config(recipe: Recipe) -> tuple[dict[str, Any] | None, str]:
    """The architecture's numbers, from the recipe or the model's own config.json, and a note where there are none."""
    if recipe.model is None or recipe.model.path is None:
        return (recipe.model.config if recipe.model else None), ""
    return config_of(recipe.model.path)


def config_of(path: str) -> tuple[dict[str, Any] | None, str]:
    """The architecture of a model directory, of a hub id in the cache, or of one in the catalogue, and a note where there
    is none.
    """
    file = load.local_model_config(path)
    if file is None:
        known = known_model(path)
        return (dict(known.config), "") if known else (
            None, f"the size of {path} is not known here, so its memory was not checked")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return None, f"{file} cannot be read ({error}), so the model's memory was not checked"
    return (config, "") if isinstance(config, dict) else (None, f"{file} is not a model configuration")


def _other_configs(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Architectures of reward models and of a local teacher, by path, where they are known."""
    paths = [reward.path for reward in recipe.rewards if reward.path]
    paths += [recipe.teacher.path] if recipe.teacher and recipe.teacher.path else []
    return {path: config for path in paths if (config := config_of(path)[0]) is not None}


def _placed(problem: Problem, merged: Node, label: str) -> Problem:
    where = origin_of(merged, problem.path) if problem.path else label
    return dataclasses.replace(problem, where=label if where == "default" else where)


def _origins(merged: Node) -> dict[str, str]:
    return {dotted(path): node.origin for path, node in walk(merged) if path and not isinstance(node.value, dict)}
