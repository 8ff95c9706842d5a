"""Looks whether functions and models of rewards are there, without running anything (adapter over the file system)."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path as File

from hpctrain.recipe.node import Path
from hpctrain.recipe.problem import Problem
from hpctrain.recipe.schema import Recipe


def missing_rewards(recipe: Recipe) -> Iterator[Problem]:
    """One problem per function or reward model that cannot be used; what is no file here is left for the run."""
    for index, reward in enumerate(recipe.rewards):
        if reward.kind == "function" and reward.function:
            yield from function_problems(reward.function, recipe.workdir, ("rewards", index, "function"))
        if reward.kind == "model" and reward.path and File(reward.path).is_absolute():
            yield from _model(File(reward.path), ("rewards", index, "path"))


def function_problems(target: str, workdir: str | None, place: Path) -> Iterator[Problem]:
    """What is wrong with ``module:function`` or ``file.py:function``, without running any of it."""
    module, _, name = target.rpartition(":")
    file = File(module) if module.endswith(".py") else File(workdir or ".") / (module.replace(".", "/") + ".py")
    if not file.is_file():
        if module.endswith(".py"):
            yield Problem(place, f"no such file: {file}")
        return  # a module may be an installed one
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    except SyntaxError as error:
        yield Problem(place, f"{file}:{error.lineno}: {error.msg}")
        return
    except (OSError, ValueError) as error:
        yield Problem(place, f"{file} cannot be read: {error}")
        return
    names = set(_top_names(tree))
    if name not in names and "*" not in names:
        found = sorted(node.name for node in tree.body if isinstance(node, ast.FunctionDef))
        yield Problem(place, f"{file} defines no {name!r}" + (f"; it has {', '.join(found)}" if found else ""))


def _top_names(tree: ast.Module) -> Iterator[str]:
    """Names that the module's own lines make, also below ``if`` and ``try``; * where not all can be told."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)


def _model(folder: File, place: Path) -> Iterator[Problem]:
    if not folder.is_dir():
        yield Problem(place, f"no such directory: {folder}")
        return
    if (folder / "adapter_config.json").is_file():
        return
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        yield Problem(place, f"{folder} holds no readable config.json, so it is no transformers model")
        return
    kinds = config.get("architectures") or []
    if kinds and not any(str(kind).endswith("ForSequenceClassification") for kind in kinds):
        yield Problem(place, f"{folder} is a {kinds[0]}, which gives no score: a model of 'method: reward' is needed")
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.safetensors.index.json")):
        yield Problem(place, f"{folder} holds no *.safetensors, so it is incomplete")
