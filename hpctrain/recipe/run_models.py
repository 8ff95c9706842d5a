"""``run:NAME`` in a recipe: the model that a run has left, without its path (adapter over the file system)."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

from hpctrain.errors import RecipeError
from hpctrain.recipe.node import Node, with_texts_changed
from hpctrain.recipe.node import Path as NodePath
from hpctrain.recipe.problem import dotted, shown

RUN = "run:"
FIELDS = (("model", "path"), ("tokenizer", "path"), ("teacher", "path"), ("rewards", "path"))
"""Where a model may be named; of a list each item."""
_STAMP = re.compile(r"-(\d{8}-\d{6})(?:-(\d+))?$")


def with_run_models(merged: Node, runs_dir: Callable[[], str]) -> tuple[Node, list[str]]:
    """Each ``run:NAME`` of a recipe replaced by the absolute path of that run's model; and a note about each.

    NAME is a run's name, or the name of its recipe: then the newest run that has left a model.

    Args:
        runs_dir: tells where runs lie; called only where a run is named.

    Raises:
        RecipeError: there is no such run, or none has left a model.
    """
    notes: list[str] = []

    def change(node: Node, path: NodePath) -> str:
        text = str(node.value)
        if not text.startswith(RUN):
            return text
        model, note = _model_of(text.removeprefix(RUN), Path(runs_dir()), f"{dotted(path)}: ", node.origin)
        notes.append(note)
        return str(model)

    for keys in FIELDS:
        merged = with_texts_changed(merged, keys, change)
    return merged, notes


def _model_of(name: str, runs_dir: Path, key: str, origin: str) -> tuple[Path, str]:
    runs = _runs(runs_dir)
    fitting = [run for run in runs if run == name or _STAMP.sub("", run) == name]
    finished = next((run for run in fitting if (runs_dir / run / "model" / "config.json").is_file()
                     or (runs_dir / run / "model" / "adapter_config.json").is_file()), None)
    if finished is None and fitting:
        raise RecipeError(
            f"{key}run {fitting[0]} has left no model yet", where=origin,
            hint=f"see how it is with 'hpctrain describe {fitting[0]}'; its model/ appears when it has finished",
        )
    if finished is None:
        near = difflib.get_close_matches(name.rpartition("/")[2], {_STAMP.sub("", run): None for run in runs}, n=1)
        raise RecipeError(
            f"{key}no run {shown(name)} in {runs_dir}", where=origin,
            hint=f"did you mean {RUN}{near[0]}?" if near else
            "run that recipe first, or give the directory of a model; 'hpctrain list --all' shows your runs",
        )
    newer = f" ({fitting[0]} is newer, but has none yet)" if fitting[0] != finished else ""
    return runs_dir / finished / "model", f"{key}{RUN}{name} is the model of {finished}{newer}"


def _runs(runs_dir: Path) -> list[str]:
    """Names of run directories, newest first."""
    try:
        with os.scandir(runs_dir) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []
    return sorted((name for name in names if (runs_dir / name / "run.json").is_file()), key=_age, reverse=True)


def _age(name: str) -> tuple[str, int]:
    found = _STAMP.search(name)
    return (found[1], int(found[2] or 1)) if found else ("", 0)
